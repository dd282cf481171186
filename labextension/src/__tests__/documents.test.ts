import * as assert from 'node:assert/strict';
import { test } from 'node:test';
import { OpenDocument, OpenDocuments } from '../documents';

interface Change {
  text?: string;
  dirty?: boolean;
  type?: string;
  format?: string | null;
  isReady?: boolean;
  collaborative?: boolean;
  seen?: string;
}

/** A JupyterLab with these documents, and what was done to them. */
function lab(documents: { [path: string]: Change }, disk: { [path: string]: string } = {}) {
  const done: string[] = [];
  const open = Object.entries(documents).map(([path, given]): OpenDocument => {
    const model = {
      dirty: given.dirty ?? false,
      collaborative: given.collaborative ?? false,
      toString: () => given.text ?? ''
    };
    const contentsModel = {
      type: given.type ?? 'file',
      format: given.format === undefined ? 'text' : given.format,
      last_modified: given.seen ?? '1'
    };
    return {
      path,
      isReady: given.isReady ?? true,
      model,
      contentsModel,
      revert: async () => {
        contentsModel.last_modified = disk[path]!;
        done.push(`reload ${path}`);
      }
    };
  });
  const asked: string[] = [];
  const opened = new OpenDocuments({
    open: () => open,
    modified: async path => {
      asked.push(path);
      if (!(path in disk)) {
        throw new Error('no such file');
      }
      return disk[path]!;
    },
    tell: path => done.push(`tell ${path}`)
  });
  return { opened, done, asked };
}

test('what is not saved is the text of text files, no notebook, nothing that is too much', () => {
  const long = 'é'.repeat((1 << 20) + 1);
  const { opened } = lab({
    'a.txt': { text: 'mine', dirty: true },
    'b.txt': { text: 'saved' },
    'c.ipynb': { text: '{}', dirty: true, type: 'notebook', format: 'json' },
    'd.txt': { text: 'not loaded', dirty: true, isReady: false },
    'e.png': { text: 'x', dirty: true, format: 'base64' },
    'f.txt': { text: long, dirty: true }
  });
  assert.deepEqual(opened.unsaved(), { 'a.txt': 'mine' });
  const many = Object.fromEntries(
    Array.from({ length: 25 }, (_, n) => [`${n}.txt`, { text: '', dirty: true }])
  );
  assert.equal(Object.keys(lab(many).opened.unsaved()).length, 20);
});

test('a document whose file was changed is reloaded, one with changes of its own is told of once', async () => {
  const { opened, done } = lab(
    {
      'changed.txt': {},
      'same.txt': {},
      'dirty.txt': { dirty: true },
      'gone.txt': {},
      'shared.txt': { collaborative: true },
      'loading.txt': { isReady: false }
    },
    { 'changed.txt': '2', 'same.txt': '1', 'dirty.txt': '2', 'shared.txt': '2', 'loading.txt': '2' }
  );
  await opened.reload();
  assert.deepEqual(done.sort(), ['reload changed.txt', 'tell dirty.txt']);
  await opened.reload();
  assert.equal(done.length, 2);
});

test('what is asked for while it looks is looked for once more', async () => {
  const disk = { 'a.txt': '1' };
  const { opened, done, asked } = lab({ 'a.txt': {} }, disk);
  const looking = opened.reload();
  disk['a.txt'] = '2';
  await Promise.all([looking, opened.reload(), opened.reload()]);
  assert.deepEqual(done, ['reload a.txt']);
  assert.deepEqual(asked, ['a.txt', 'a.txt']);
});
