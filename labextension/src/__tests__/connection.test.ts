import * as assert from 'node:assert/strict';
import { test } from 'node:test';
import { Connection, ConnectionState, Socket } from '../connection';

class FakeSocket implements Socket {
  onopen: ((event: never) => void) | null = null;
  onmessage: ((event: never) => void) | null = null;
  onclose: ((event: never) => void) | null = null;
  isClosed = false;
  close(): void {
    this.isClosed = true;
  }
  say(...seqs: number[]): void {
    const batch = seqs.map(seq => ({ seq, time: 0, turn: null, kind: 'session_closed', data: {} }));
    this.onmessage?.({ data: JSON.stringify(batch) } as never);
  }
}

function setUp(check?: () => Promise<number | null>) {
  const sockets: FakeSocket[] = [];
  const asked: number[] = [];
  const seen: number[] = [];
  const states: ConnectionState[] = [];
  const delays: number[] = [];
  let due: (() => void) | null = null;
  const abort = new AbortController();
  const connection = new Connection({
    after: 4,
    signal: abort.signal,
    check,
    open: after => {
      asked.push(after);
      const socket = new FakeSocket();
      sockets.push(socket);
      return socket;
    },
    onEvents: events => seen.push(...events.map(event => event.seq)),
    onState: state => states.push(state),
    schedule: (callback, delay) => {
      delays.push(delay);
      due = callback;
      return () => (due = null);
    }
  });
  const wait = async () => {
    due?.();
    await new Promise(setImmediate);
  };
  const latest = () => sockets[sockets.length - 1]!;
  return { connection, abort, asked, seen, states, delays, wait, latest };
}

test('each event is handed on once, whatever the server repeats', () => {
  const { seen, latest } = setUp();
  latest().say(5, 6);
  latest().say(5, 6, 7);
  assert.deepEqual(seen, [5, 6, 7]);
});

test('a lost connection goes on after the last event', async () => {
  const { asked, seen, states, wait, latest } = setUp();
  latest().say(5, 6);
  latest().onclose?.(undefined as never);
  assert.equal(states.at(-1), 'waiting');
  await wait();
  latest().say(6, 7);
  assert.deepEqual(asked, [4, 6]);
  assert.deepEqual(seen, [5, 6, 7]);
});

test('a gap is asked for again, not skipped', async () => {
  const { asked, seen, wait, latest } = setUp();
  latest().say(5, 8);
  await wait();
  latest().say(6, 7, 8);
  assert.deepEqual(asked, [4, 5]);
  assert.deepEqual(seen, [5, 6, 7, 8]);
});

test('the delay grows while nothing arrives and starts anew once something does', async () => {
  const { delays, wait, latest } = setUp();
  for (let count = 0; count < 8; count++) {
    latest().onclose?.(undefined as never);
    await wait();
  }
  assert.deepEqual(delays.slice(0, 3), [500, 1000, 2000]);
  assert.equal(delays.at(-1), 15000);
  latest().say(5);
  latest().onclose?.(undefined as never);
  assert.equal(delays.at(-1), 500);
});

test('a server that cannot be reached is asked again', async () => {
  let isUp = false;
  const { asked, wait, latest } = setUp(() =>
    isUp ? Promise.resolve(null) : Promise.reject(new Error('down'))
  );
  latest().onclose?.(undefined as never);
  await wait();
  assert.equal(asked.length, 1);
  isUp = true;
  await wait();
  assert.equal(asked.length, 2);
});

test('a log that began anew is followed from where the check says', async () => {
  const { asked, seen, wait, latest } = setUp(() => Promise.resolve(1));
  latest().onclose?.(undefined as never);
  await wait();
  latest().say(2, 3);
  assert.deepEqual(asked, [4, 1]);
  assert.deepEqual(seen, [2, 3]);
});

test('text that is no list of events drops the socket, not the chat', async () => {
  const { asked, wait, latest } = setUp();
  const socket = latest();
  const log = console.error;
  console.error = () => undefined;
  socket.onmessage?.({ data: '{"no": "list"}' } as never);
  console.error = log;
  assert.ok(socket.isClosed);
  await wait();
  assert.deepEqual(asked, [4, 4]);
});

test('nothing happens after the panel is gone', async () => {
  const { abort, asked, seen, states, wait, latest } = setUp();
  const socket = latest();
  abort.abort();
  socket.say(5);
  socket.onclose?.(undefined as never);
  await wait();
  assert.ok(socket.isClosed);
  assert.deepEqual([asked, seen, states.at(-1)], [[4], [], 'closed']);
});
