import * as assert from 'node:assert/strict';
import { test } from 'node:test';
import { AcpEvent, event } from '../wire/events';
import { messages } from '../wire/messages';
import { summary } from '../wire/session';
import { apply, applyAll, ChatState, firstAfter, initial, isBroken, prepend } from '../model';
import { feed, NO_TEXT, whole } from '../streamed';
import { replayTurn } from '../turn';
import { golden } from './golden';

const USER = { username: 'ada', display_name: 'Ada' };

function empty(): ChatState {
  return initial(summary({ id: 's' }), messages({}));
}

/** A log that numbers its events from `from`. */
function log(
  from: number,
  ...entries: [kind: string, data: object, turn?: string | null][]
): AcpEvent[] {
  return entries.map(([kind, data, turn = 't1'], index) =>
    event({ seq: from + index, time: 100 + index, turn, kind, data })
  );
}

const START: [string, object] = [
  'turn_started',
  { id: 't1', text: 'hi', user: USER, message_id: 't1-user' }
];
const delta = (text: string, id = 'm1'): [string, object] => [
  'message_delta',
  { message_id: id, role: 'agent', text }
];
const tool = (id: string, status: string): [string, object] => [
  'tool_call',
  { toolCallId: id, title: id, status }
];
const END: [string, object] = ['turn_ended', { id: 't1', stop_reason: 'end_turn', elapsed_ms: 5 }];

test('every golden event can be folded', () => {
  const sorted = [...golden].sort((a, b) => Number(a.raw.seq) - Number(b.raw.seq));
  const state = applyAll(
    empty(),
    sorted.map(({ raw }) => event(raw))
  );
  assert.equal(state.lastSeq, Math.max(...sorted.map(({ raw }) => Number(raw.seq))));
});

test('apply leaves the state before as it was', () => {
  const before = applyAll(empty(), log(1, START, delta('a')));
  const copy = structuredClone({ ...before, users: [], active: before.active });
  apply(before, log(3, delta('b'))[0]!);
  assert.deepEqual(structuredClone({ ...before, users: [], active: before.active }), copy);
});

test('deltas of one message are one text, a tool call between them keeps the order', () => {
  const state = applyAll(
    empty(),
    log(1, START, delta('one '), delta('two'), tool('c', 'pending'), delta(' three'), END)
  );
  const last = state.entries.at(-1);
  assert.ok(last?.type === 'turn');
  const shown = last.turn.items.map(item =>
    item.type === 'text' ? whole(item.streamed) : item.type
  );
  assert.deepEqual(shown, ['one two', 'tool', ' three']);
});

test('a whole message after its deltas adds nothing, without deltas it is the text', () => {
  const done: [string, object] = [
    'message',
    { message_id: 'm1', role: 'agent', text: 'one', sender: 'acp-x', time: 1 }
  ];
  for (const entries of [
    [START, delta('one'), done],
    [START, done]
  ]) {
    const items = applyAll(empty(), log(1, ...(entries as [string, object][]))).active!.items;
    assert.equal(items.length, 1);
    assert.ok(items[0]?.type === 'text' && whole(items[0].streamed) === 'one');
  }
});

test('a tool call is replaced where it stands', () => {
  const state = applyAll(
    empty(),
    log(1, START, tool('a', 'pending'), tool('b', 'pending'), tool('a', 'completed'))
  );
  const calls = state.active!.items.flatMap(item =>
    item.type === 'tool' ? [`${item.call.id} ${item.call.status}`] : []
  );
  assert.deepEqual(calls, ['a completed', 'b pending']);
});

test('a delta costs the same in a long answer as in a short one', () => {
  const [start] = log(1, START);
  let state = apply(empty(), start!);
  const piece = log(2, delta('x'.repeat(20)))[0]!;
  state = apply(state, piece);
  const items = state.active!.items;
  const entries = state.entries;
  for (let seq = 3; seq < 100_000; seq++) {
    state = apply(state, { ...piece, seq });
  }
  // nothing that grows was copied on the way
  assert.equal(state.active!.items, items);
  assert.equal(state.entries, entries);
  assert.equal(whole(state.active!.open!.streamed).length, 20 * 99_998);
});

test('streamed text splits into blocks at blank lines but not inside a code fence, and loses nothing', () => {
  const text = 'first\n\n```py\na\n\nb\n```\n\nlast';
  for (const size of [1, 2, 3, 7, text.length]) {
    let streamed = NO_TEXT;
    for (let at = 0; at < text.length; at += size) {
      streamed = feed(streamed, text.slice(at, at + size));
    }
    assert.equal(whole(streamed), text);
    assert.deepEqual(streamed.blocks, ['first\n\n', '```py\na\n\nb\n```\n\n']);
  }
});

test('a queued turn is listed, edited, started and no longer queued', () => {
  const queued: [string, object, string] = [
    'turn_queued',
    { id: 't2', text: 'next', user: USER },
    't2'
  ];
  let state = applyAll(
    empty(),
    log(1, START, queued, ['turn_edited', { id: 't2', text: 'other' }, 't2'])
  );
  assert.deepEqual(
    state.queue.map(turn => turn.text),
    ['other']
  );
  state = applyAll(
    state,
    log(4, END, ['turn_started', { id: 't2', text: 'other', user: USER, message_id: 'u' }, 't2'])
  );
  assert.deepEqual(state.queue, []);
  assert.equal(state.active?.id, 't2');
});

test('Stop is confirmed by the log', () => {
  const turns = [{ id: 't1', state: 'cancelling', user: USER }];
  const state = applyAll(empty(), log(1, START, ['session_changed', { turns }, null]));
  assert.equal(state.active?.state, 'cancelling');
});

test('a permission is pending until it is resolved', () => {
  let state = applyAll(empty(), log(1, START, ['permission_requested', { id: 'p', options: [] }]));
  assert.equal(state.permissions.length, 1);
  state = applyAll(state, log(3, ['permission_resolved', { id: 'p', outcome: 'selected' }]));
  assert.equal(state.permissions.length, 0);
});

test('a page that opens in the middle of a turn replays it without doubling messages, queue or permissions', () => {
  const session = summary({
    id: 's',
    last_seq: 9,
    turns: [
      {
        id: 't1',
        state: 'requires_action',
        started_seq: 5,
        started_at: 90,
        text: 'hi',
        user: USER
      },
      { id: 't2', state: 'queued', text: 'next', user: USER }
    ],
    permissions: [{ id: 'p', options: [] }]
  });
  const page = messages({
    messages: [
      { id: 'old', body: 'old', time: 1, sender: 'ada' },
      { id: 't1-user', body: 'hi', time: 2, sender: 'ada', metadata: { acp: { turn: 't1' } } }
    ]
  });
  assert.equal(firstAfter(session), 4);
  const state = applyAll(
    initial(session, page),
    log(
      5,
      START,
      ['message', { message_id: 't1-user', role: 'user', text: 'hi', sender: 'ada', time: 2 }],
      ['turn_queued', { id: 't2', text: 'next', user: USER }, 't2'],
      ['permission_requested', { id: 'p', options: [] }],
      delta('working')
    )
  );
  assert.deepEqual(
    state.entries.map(entry => entry.id),
    ['old']
  );
  assert.equal(state.queue.length, 1);
  assert.equal(state.permissions.length, 1);
  assert.equal(state.active?.startedAt, 90);
});

test('a permission answered before the summary does not come back with the replay', () => {
  const session = summary({
    last_seq: 9,
    turns: [{ id: 't1', state: 'running', started_seq: 5, user: USER }]
  });
  const state = applyAll(
    initial(session, messages({})),
    log(5, START, ['permission_requested', { id: 'p', options: [] }])
  );
  assert.deepEqual(state.permissions, []);
});

test('a message that the page and the log both tell is shown once', () => {
  const page = messages({
    messages: [
      { id: 't1-user', body: 'hi', time: 2, sender: 'ada', metadata: { acp: { turn: 't1' } } }
    ]
  });
  const state = applyAll(initial(summary({ id: 's' }), page), log(1, START, delta('yes'), END));
  assert.deepEqual(
    state.entries.map(entry => entry.type),
    ['turn']
  );
});

test('a file that the agent has written is told at once, what came of it is counted at the end', () => {
  const changes = { files: 1, added: 2, removed: 0 };
  const state = applyAll(
    empty(),
    log(
      1,
      START,
      ['file_changed', { path: 'a.py', route: 'delegated' }],
      ['file_changed', { path: 'a.py', change: 'modified', added: 2, removed: 0 }],
      ['file_changed', { path: 'b.py', change: 'added', added: 0, removed: 0 }],
      ['turn_ended', { id: 't1', stop_reason: 'end_turn', elapsed_ms: 5, changes }],
      ['file_changed', { path: 'a.py', change: 'reverted', by: 'ada' }]
    )
  );
  const [ended] = state.entries;
  assert.ok(ended?.type === 'turn');
  assert.deepEqual(
    ended.turn.items.map(item => item.type === 'file' && item.path),
    ['a.py']
  );
  assert.deepEqual(ended.turn.changes, changes);
});

test('an older page goes on top, once', () => {
  const page = (...ids: string[]) =>
    messages({ messages: ids.map(id => ({ id, body: id, sender: 'ada' })) });
  const state = prepend(initial(summary({}), page('c')), page('a', 'b', 'c'));
  assert.deepEqual(
    state.entries.map(entry => entry.id),
    ['a', 'b', 'c']
  );
});

test('an event of a turn that is over does not change the one that runs', () => {
  const before = applyAll(empty(), log(1, START));
  const state = apply(
    before,
    log(2, ['message_delta', { message_id: 'm', role: 'agent', text: 'late' }, 't0'])[0]!
  );
  assert.equal(state.active, before.active);
});

test('a log that was lost, or whose next events are not kept, cannot be gone on with', () => {
  const session = summary({ id: 's', first_seq: 5, last_seq: 9 });
  assert.deepEqual(
    [3, 4, 9, 10].map(after => isBroken(session, after)),
    [true, false, false, true]
  );
  assert.equal(isBroken(summary({ id: 's', last_seq: 3 }), 0), false);
});

test('the activity of a turn that is not kept from its start is none', () => {
  assert.equal(replayTurn('t1', []), null);
  assert.equal(replayTurn('t1', log(2, tool('c', 'completed'), END)), null);
  assert.equal(replayTurn('t1', log(1, START, tool('c', 'completed'), END))?.items.length, 1);
});

test('discarded activity leaves the answers, and the running turn as it is', () => {
  const before = applyAll(
    empty(),
    log(1, START, tool('c', 'completed'), delta('one'), END, [
      'turn_started',
      { id: 't2', text: 'on', user: USER, message_id: 't2-user' },
      't2'
    ])
  );
  const running = applyAll(before, log(6, [...tool('d', 'pending'), 't2']));
  const state = apply(running, log(7, ['session_changed', { first_seq: 5 }, null])[0]!);
  const [ended] = state.entries;
  assert.ok(ended?.type === 'turn');
  assert.deepEqual(
    ended.turn.items.map(item => item.type),
    ['text']
  );
  assert.ok(ended.isDiscarded);
  assert.equal(state.active, running.active);
  assert.equal(state.session.firstSeq, 5);
});
