/** Text that streams, in the pieces that are drawn: what is whole stays as it is, and only what grows is drawn again. */

/** Whole Markdown blocks, the lines of the block that grows, and the line that grows. */
export interface Streamed {
  readonly blocks: readonly string[];
  readonly tail: string;
  readonly line: string;
  /** The marker of the code fence that `tail` is in, or ''. */
  readonly fence: string;
}

export const NO_TEXT: Streamed = { blocks: [], tail: '', line: '', fence: '' };

export function feed(streamed: Streamed, piece: string): Streamed {
  if (!piece.includes('\n')) {
    return { ...streamed, line: streamed.line + piece };
  }
  let { tail, line, fence } = streamed;
  let blocks: string[] | null = null;
  const lines = piece.split('\n');
  for (let index = 0; index < lines.length - 1; index++) {
    const whole = line + lines[index];
    line = '';
    tail += whole + '\n';
    const marker = /^\s{0,3}(```+|~~~+)/.exec(whole)?.[1] ?? '';
    if (fence) {
      fence = marker.startsWith(fence) ? '' : fence;
    } else if (marker) {
      fence = marker;
    } else if (whole.trim() === '' && tail.trim() !== '') {
      (blocks ??= [...streamed.blocks]).push(tail);
      tail = '';
    }
  }
  return { blocks: blocks ?? streamed.blocks, tail, line: line + lines[lines.length - 1], fence };
}

export function whole(streamed: Streamed): string {
  return streamed.blocks.join('') + streamed.tail + streamed.line;
}
