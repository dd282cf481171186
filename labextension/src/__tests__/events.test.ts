import * as assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { event, events } from '../wire/events';
import { messages } from '../wire/messages';
import { summary } from '../wire/session';
import { FOLDER, golden } from './golden';

test('there is a golden event of every kind', () => {
  assert.ok(golden.length >= 24, `${golden.length} golden files`);
});

for (const { name, raw } of golden) {
  test(`the golden event ${name} is read as its kind, with every field filled`, () => {
    const read = event(raw);
    assert.equal(read.kind, name);
    assert.equal(read.seq, raw.seq);
    assert.equal(read.turn, raw.turn);
    assert.ok(!Object.values(read).includes(undefined));
  });
}

test('an unknown kind keeps its place in the order', () => {
  const read = event({ seq: 7, time: 1, turn: null, kind: 'from_the_future', data: { a: 1 } });
  assert.equal(read.kind, 'other');
  assert.equal(read.seq, 7);
});

test('fields of the wrong type read as missing', () => {
  const read = event({ seq: 1, time: 'x', turn: 3, kind: 'plan', data: { entries: 'none' } });
  assert.ok(read.kind === 'plan');
  assert.deepEqual(read.entries, []);
  assert.equal(read.turn, null);
});

test('a tool call tells who carried it out', () => {
  const { raw } = golden.find(({ name }) => name === 'tool_call')!;
  const read = event(raw);
  assert.ok(read.kind === 'tool_call');
  assert.equal(read.call.route, 'agent');
});

test('what is no event is refused', () => {
  for (const wrong of [null, 3, 'text', [], { kind: 'plan' }, { seq: '1', kind: 'plan' }]) {
    assert.throws(() => event(wrong), TypeError);
  }
  assert.throws(() => events({ seq: 1 }), TypeError);
});

test('a usage window is never smaller than what is used of it', () => {
  assert.equal(summary({ usage: { used: 300, size: 200 } }).usage?.size, 300);
});

test('what a turn changed is counted in its end and in its answer', () => {
  const read = (name: string): unknown =>
    JSON.parse(readFileSync(join(FOLDER, '..', 'chat', name), 'utf-8'));
  assert.deepEqual(
    messages(read('page.json')).messages.map(message => message.changes),
    [null, { files: 3, added: 10, removed: 2 }]
  );
  const ended = event(golden.find(({ name }) => name === 'turn_ended')!.raw);
  assert.ok(ended.kind === 'turn_ended');
  assert.deepEqual(ended.changes, { files: 1, added: 3, removed: 1 });
});

test('a message without a role is the agent’s if its sender is an agent', () => {
  const page = messages({ messages: [{ id: 'm', body: 'x', time: 1, sender: 'acp-demo' }] });
  assert.equal(page.messages[0]?.role, 'agent');
});
