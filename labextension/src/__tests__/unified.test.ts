import * as assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { firstChange } from '../diff';
import { ChangedFile, turnDiff } from '../wire/changes';
import { shownAtOnce, unified } from '../unified';
import { FOLDER } from './golden';

/** What the server says of a turn; the Python tests see to it that it does. */
const golden = turnDiff(
  JSON.parse(readFileSync(join(FOLDER, '..', 'diffs', 'turn.json'), 'utf-8')) as unknown
);

function file(path: string): ChangedFile {
  return golden.files.find(one => one.path === path)!;
}

function shown(diff: string) {
  return unified(diff).lines.map(line => [line.type, line.before, line.after, line.text]);
}

test('the golden diff is read with every field filled', () => {
  assert.deepEqual(
    golden.files.map(one => [one.path, one.change, one.state]),
    [
      ['a.py', 'modified', 'applied'],
      ['book.ipynb', 'modified', 'applied'],
      ['gone.txt', 'deleted', 'reverted'],
      ['image.bin', 'added', 'changed'],
      ['large.bin', 'added', 'applied'],
      ['new.txt', 'renamed', 'applied'],
      ['run.sh', 'modified', 'applied'],
      ['x.log', 'modified', 'applied']
    ]
  );
  assert.ok(golden.files.every(one => !Object.values(one).includes(undefined)));
  assert.equal(file('new.txt').oldPath, 'old.txt');
  assert.ok(file('image.bin').binary && file('large.bin').large && file('x.log').reported);
  assert.deepEqual(
    file('book.ipynb').cells?.map(cell => [cell.change, cell.index, cell.cellType, cell.source]),
    [['modified', 1, 'markdown', '@@ -1 +1 @@\n-two\n+2\n']]
  );
  assert.equal(file('a.py').cells, null);
});

test('a diff of git has the numbers of its lines, hunks apart, and says where a file has no last newline', () => {
  const lines = shown(file('a.py').diff);
  assert.deepEqual(lines.slice(0, 5), [
    ['same', 1, 1, 'def f():'],
    ['same', 2, 2, '    x0 = 0'],
    ['same', 3, 3, '    x1 = 1'],
    ['removed', 4, null, '    x2 = 2'],
    ['added', null, 4, '    x2 = 3']
  ]);
  assert.deepEqual(
    lines
      .filter(([type]) => type === 'gap' || type === 'note')
      .map(([type, , , text]) => [type, text]),
    [
      ['gap', 'def f():'],
      ['note', 'No newline at end of file']
    ]
  );
  assert.deepEqual(lines.at(-2), ['added', null, 21, '    y = 0']);
});

test('what has no lines has none: binary, renamed as it was, made executable', () => {
  for (const path of ['image.bin', 'large.bin', 'new.txt', 'run.sh']) {
    assert.deepEqual(unified(file(path).diff).lines, [], path);
  }
  assert.equal(unified(file('run.sh').diff).executable, true);
  assert.equal(unified(file('a.py').diff).executable, null);
});

test('a cell that is new counts from its first line', () => {
  assert.deepEqual(shown('+++ x\n+@@ y\n+\n'), [
    ['added', null, 1, '++ x'],
    ['added', null, 2, '@@ y'],
    ['added', null, 3, '']
  ]);
});

test('removed lines that look like a header are lines', () => {
  const diff =
    'diff --git a/q.sql b/q.sql\n--- a/q.sql\n+++ b/q.sql\n@@ -1,2 +1 @@\n--- a comment\n x\n';
  assert.deepEqual(shown(diff), [
    ['removed', 1, null, '-- a comment'],
    ['same', 2, 1, 'x']
  ]);
});

test('line ends of Windows are seen only where not all lines have them', () => {
  assert.deepEqual(
    shown(file('gone.txt').diff).map(([, , , text]) => text),
    ['one', 'two']
  );
  assert.deepEqual(
    shown('@@ -1,2 +1,2 @@\n-a\n+a\r\n b\n').map(([, , , text]) => text),
    ['a', 'a\r', 'b']
  );
});

test('the first change is where the new text is, or what comes where the old one was', () => {
  const first = (diff: string) => firstChange(unified(diff).lines);
  assert.equal(first(file('a.py').diff), 4);
  assert.equal(first('@@ -5,3 +5,2 @@\n a\n-b\n c\n'), 6);
  assert.equal(first('@@ -5,2 +5 @@\n a\n-b\n'), 5);
  assert.equal(first('@@ -1 +0,0 @@\n-b\n'), 1);
  assert.equal(first(''), null);
});

test('the first few files are shown at once as long as they are short', () => {
  const of = (...sizes: number[]) =>
    [...shownAtOnce(sizes.map((size, n) => ({ path: String(n), diff: 'x\n'.repeat(size) })))].join(
      ''
    );
  assert.equal(of(10, 20, 30), '012');
  assert.equal(of(10, 500, 10), '0');
  assert.equal(of(500, 10), '');
});
