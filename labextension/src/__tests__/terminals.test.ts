import * as assert from 'node:assert/strict';
import { test } from 'node:test';
import { TerminalTabs } from '../terminals';

/** A JupyterLab in which these terminals run, and what was asked of it. */
function lab(running: string[], { available = true, command = true, fails = false } = {}) {
  const opened: unknown[] = [];
  const listed: string[] = [];
  const tabs = new TerminalTabs(
    {
      isAvailable: () => available,
      refreshRunning: async () => {
        if (fails) {
          throw new Error('the server is gone');
        }
        listed.splice(0, listed.length, ...running);
      },
      running: () => listed.map(name => ({ name }))[Symbol.iterator]()
    },
    {
      hasCommand: id => command && id === 'terminal:open',
      execute: async (id, args) => {
        opened.push([id, args]);
        return { content: { setOption: (...option: unknown[]) => opened.push(option) } };
      }
    }
  );
  return { tabs, opened };
}

test('a command that runs is opened in a tab, which stays when the command ends', async () => {
  const { tabs, opened } = lab(['1', 'term_a']);
  assert.equal(await tabs.canOpen('term_a'), true);
  assert.equal(await tabs.open('term_a'), true);
  assert.deepEqual(opened, [
    ['terminal:open', { name: 'term_a' }],
    ['closeOnExit', false]
  ]);
});

test('one that has ended is not, since JupyterLab would start a shell of that name', async () => {
  const { tabs, opened } = lab(['1']);
  assert.equal(await tabs.canOpen('term_a'), false);
  assert.equal(await tabs.open('term_a'), false);
  assert.deepEqual(opened, []);
});

test('nothing can be opened where there are no terminals, or nobody answers', async () => {
  for (const lacking of [{ available: false }, { command: false }, { fails: true }]) {
    const { tabs, opened } = lab(['term_a'], lacking);
    assert.equal(await tabs.canOpen('term_a'), false);
    assert.equal(await tabs.open('term_a'), false);
    assert.deepEqual(opened, []);
  }
});
