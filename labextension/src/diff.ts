/** Lines of two texts, compared. Pure. Unified diffs of others are read in unified.ts. */

export interface DiffLine {
  readonly type: 'same' | 'added' | 'removed' | 'gap' | 'note';
  /** Of a gap what follows it is in, if that is known. */
  readonly text: string;
  readonly before: number | null;
  readonly after: number | null;
}

export interface Diff {
  readonly lines: readonly DiffLine[];
  readonly added: number;
  readonly removed: number;
}

/** Where the first change is, by the numbers of lines afterwards; null where there is none. */
export function firstChange(lines: readonly DiffLine[]): number | null {
  const at = lines.findIndex(line => line.type === 'added' || line.type === 'removed');
  if (at < 0) {
    return null;
  }
  // what was removed without anything in its place is where the next line is now, or after the last one
  const next = lines.slice(at).find(line => line.type !== 'removed' && line.type !== 'note');
  return next?.after ?? lines[at - 1]?.after ?? 1;
}

const CONTEXT = 3;
/** Above this many cells the middle counts as replaced, which is true, only longer. */
const CELLS = 1_000_000;

function split(text: string): string[] {
  const lines = text.split('\n');
  if (lines[lines.length - 1] === '') {
    lines.pop();
  }
  return lines;
}

/** The hunks that turn `before` into `after`, with three lines around them. */
export function diff(before: string, after: string): Diff {
  const a = split(before);
  const b = split(after);
  let top = 0;
  while (top < a.length && top < b.length && a[top] === b[top]) {
    top++;
  }
  let bottom = 0;
  while (
    bottom < a.length - top &&
    bottom < b.length - top &&
    a[a.length - 1 - bottom] === b[b.length - 1 - bottom]
  ) {
    bottom++;
  }
  const lines: DiffLine[] = [];
  const same = (i: number, j: number) =>
    lines.push({ type: 'same', text: a[i]!, before: i + 1, after: j + 1 });
  for (let i = 0; i < top; i++) {
    same(i, i);
  }
  let i = top;
  let j = top;
  for (const step of steps(a.slice(top, a.length - bottom), b.slice(top, b.length - bottom))) {
    if (step === 'same') {
      same(i++, j++);
    } else if (step === 'removed') {
      lines.push({ type: 'removed', text: a[i]!, before: ++i, after: null });
    } else {
      lines.push({ type: 'added', text: b[j]!, before: null, after: ++j });
    }
  }
  for (; i < a.length; i++, j++) {
    same(i, j);
  }
  return {
    lines: hunks(lines),
    added: lines.filter(line => line.type === 'added').length,
    removed: lines.filter(line => line.type === 'removed').length
  };
}

type Step = 'same' | 'added' | 'removed';

/** Longest common subsequence, walked from the start. */
function steps(a: readonly string[], b: readonly string[]): Step[] {
  const width = b.length + 1;
  if (a.length * b.length > CELLS) {
    return [...a.map((): Step => 'removed'), ...b.map((): Step => 'added')];
  }
  const longest = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i * width + j] =
        a[i] === b[j]
          ? longest[(i + 1) * width + j + 1]! + 1
          : Math.max(longest[(i + 1) * width + j]!, longest[i * width + j + 1]!);
    }
  }
  const result: Step[] = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      result.push('same');
      i++;
      j++;
    } else if (
      i < a.length &&
      (j === b.length || longest[(i + 1) * width + j]! >= longest[i * width + j + 1]!)
    ) {
      result.push('removed');
      i++;
    } else {
      result.push('added');
      j++;
    }
  }
  return result;
}

function hunks(lines: readonly DiffLine[]): DiffLine[] {
  const shown = new Uint8Array(lines.length);
  lines.forEach((line, index) => {
    if (line.type !== 'same') {
      shown.fill(1, Math.max(0, index - CONTEXT), index + CONTEXT + 1);
    }
  });
  const result: DiffLine[] = [];
  let gap = false;
  lines.forEach((line, index) => {
    if (shown[index]) {
      if (gap && result.length > 0) {
        result.push({ type: 'gap', text: '', before: null, after: null });
      }
      gap = false;
      result.push(line);
    } else {
      gap = true;
    }
  });
  return result;
}
