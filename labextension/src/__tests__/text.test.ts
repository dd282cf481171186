import * as assert from 'node:assert/strict';
import { test } from 'node:test';
import { diff } from '../diff';
import { duration, isSafeLink, reveal, terminalText } from '../visible';

test('bidirectional controls and invisible characters are shown by name', () => {
  const shown = (text: string) =>
    reveal(text).map(piece => (piece.hidden ? `[${piece.text}]` : piece.text));
  assert.deepEqual(shown('rm \u202Etxt.exe'), ['rm ', '[U+202E]', 'txt.exe']);
  for (const hidden of [
    '\u200b',
    '\u2066',
    '\ufeff',
    '\u00ad',
    '\u{e0041}',
    '\u3164',
    '\x1b',
    '\r',
    '\u2028'
  ]) {
    assert.ok(reveal(`a${hidden}b`)[1]?.hidden, `U+${hidden.codePointAt(0)!.toString(16)}`);
  }
});

test('plain text, line breaks and other scripts stay as they are', () => {
  const text = 'ls -l\n\tgrüße 你好 שלום';
  assert.deepEqual(reveal(text), [{ text, hidden: false }]);
});

test('only addresses of the web and of mail may be followed', () => {
  assert.ok(['https://a.b', 'http://a.b', 'mailto:a@b.c'].every(isSafeLink));
  assert.ok(
    !['javascript:alert(1)', 'data:text/html,x', 'file:///etc/passwd', 'a/b.py', '//a.b'].some(
      isSafeLink
    )
  );
});

test('a terminal’s line that was overwritten shows what came last, colours stay', () => {
  assert.equal(terminalText('10 %\r50 %\r100 %\r\ndone'), '100 %\ndone');
  assert.equal(terminalText('\x1b[31mred\x1b[0m\x1b[2K\x1b]0;title\x07'), '\x1b[31mred\x1b[0m');
});

test('a diff has line numbers, counts and three lines around a change', () => {
  const before = Array.from({ length: 20 }, (_, index) => `line ${index + 1}`);
  const after = before.with(9, 'changed');
  const change = diff(before.join('\n'), after.join('\n'));
  assert.deepEqual([change.added, change.removed, change.lines.length], [1, 1, 8]);
  assert.deepEqual(
    change.lines
      .filter(line => line.type !== 'same')
      .map(line => [line.type, line.before, line.after]),
    [
      ['removed', 10, null],
      ['added', null, 10]
    ]
  );
});

test('a new file is all added, distant changes have a gap between them', () => {
  assert.equal(diff('', 'a\nb\n').added, 2);
  const many = Array.from({ length: 40 }, (_, index) => String(index));
  const change = diff(many.join('\n'), many.with(2, 'x').with(35, 'y').join('\n'));
  assert.equal(change.lines.filter(line => line.type === 'gap').length, 1);
});

test('times are minutes and seconds', () => {
  assert.deepEqual([0, 134, 3723].map(duration), ['0:00', '2:14', '1:02:03']);
});
