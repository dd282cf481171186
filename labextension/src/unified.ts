/** Unified diffs of one file or cell, as git and difflib write them, read. Pure. */

import type { DiffLine } from './diff';

export interface Unified {
  readonly lines: readonly DiffLine[];
  /** Whether the file has become executable, or is not any more; null where that is as it was. */
  readonly executable: boolean | null;
}

const HUNK = /^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@ ?(.*)$/;

/** Its lines. What has no hunks (a cell that is new) counts from the first line. */
export function unified(diff: string): Unified {
  const start = diff.startsWith('diff --git ') ? diff.search(/^@@ /m) : 0;
  const header = start < 0 ? diff : diff.slice(0, start);
  const lines: DiffLine[] = [];
  let before = 1;
  let after = 1;
  for (const line of start < 0 ? [] : diff.slice(start).split('\n')) {
    const text = line.slice(1);
    const hunk = HUNK.exec(line);
    if (hunk) {
      before = Number(hunk[1]);
      after = Number(hunk[2]);
      const place = hunk[3]!;
      if (lines.length > 0 || place) {
        lines.push({ type: 'gap', text: place, before: null, after: null });
      }
    } else if (line.startsWith('+')) {
      lines.push({ type: 'added', text, before: null, after: after++ });
    } else if (line.startsWith('-')) {
      lines.push({ type: 'removed', text, before: before++, after: null });
    } else if (line.startsWith(' ')) {
      lines.push({ type: 'same', text, before: before++, after: after++ });
    } else if (line.startsWith('\\')) {
      lines.push({ type: 'note', text: text.trim(), before: null, after: null });
    }
  }
  const mode = /^old mode \d+\nnew mode (\d+)$/m.exec(header)?.[1];
  return {
    lines: withoutReturns(lines),
    executable: mode === undefined ? null : mode === '100755'
  };
}

/** Where all lines end as on Windows that is nothing to see; where only some do, it is. */
function withoutReturns(lines: readonly DiffLine[]): readonly DiffLine[] {
  const isText = (line: DiffLine) => line.type !== 'gap' && line.type !== 'note';
  return lines.every(line => !isText(line) || line.text.endsWith('\r'))
    ? lines.map(line => (isText(line) ? { ...line, text: line.text.slice(0, -1) } : line))
    : lines;
}

const FEW_LINES = 150;

/** The files that are shown at once: the first few, as long as they are short. */
export function shownAtOnce(files: readonly { path: string; diff: string }[]): Set<string> {
  const shown = new Set<string>();
  let left = FEW_LINES;
  for (const file of files) {
    left -= file.diff.split('\n', FEW_LINES + 1).length;
    if (left < 0) {
      break;
    }
    shown.add(file.path);
  }
  return shown;
}
