import * as assert from 'node:assert/strict';
import { test } from 'node:test';
import { ChatTabs } from '../tabs';

function storage(kept: { [key: string]: string } = {}) {
  return {
    getItem: (key: string) => kept[key] ?? null,
    setItem: (key: string, text: string) => void (kept[key] = text)
  };
}

test('what a tab shows is found again by another page of the browser, until it is closed', () => {
  const kept = storage();
  const first = new ChatTabs(kept);
  first.set('one', { project: 'a', path: 'x.chat' });
  first.set('two', { project: 'b', path: 'y.chat' });
  first.set('one', { project: 'a', path: 'renamed.chat' });
  const second = new ChatTabs(kept);
  assert.deepEqual(second.get('one'), { project: 'a', path: 'renamed.chat' });
  second.set('one', null);
  assert.equal(first.get('one'), null);
  assert.deepEqual(first.get('two'), { project: 'b', path: 'y.chat' });
});

test('a browser that knows nothing of a tab, or keeps what is damaged, shows none', () => {
  assert.equal(new ChatTabs(storage()).get('one'), null);
  for (const damaged of ['{', '[]', '{"one": 3}', '{"one": {"project": "a"}}']) {
    const tabs = new ChatTabs(storage({ 'jupyter-acp:tabs': damaged }));
    assert.equal(tabs.get('one'), null);
    tabs.set('one', { project: 'a', path: 'x.chat' });
    assert.deepEqual(tabs.get('one'), { project: 'a', path: 'x.chat' });
  }
});
