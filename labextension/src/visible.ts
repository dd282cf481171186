/** Characters that hide or reorder what a person is asked to approve, made visible. Pure. */

export interface Piece {
  readonly text: string;
  /** True where `text` is the name of a character that cannot be seen. */
  readonly hidden: boolean;
}

// Controls except tab and newline, format characters (bidirectional controls, zero widths, tags), separators that look
// like nothing, variation selectors, unpaired surrogates, and fillers that are drawn empty.
const HIDDEN =
  /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Co}\u115f\u1160\u3164\uffa0\u00a0\u2000-\u200a\u202f\u205f\u3000\u034f\ufe00-\ufe0f\u{e0100}-\u{e01ef}]/u;

/** `text` in pieces; the hidden characters are pieces of their own, as U+XXXX. */
export function reveal(text: string): Piece[] {
  const pieces: Piece[] = [];
  let plain = '';
  for (const character of text) {
    if (character === '\n' || character === '\t' || !HIDDEN.test(character)) {
      plain += character;
      continue;
    }
    if (plain) {
      pieces.push({ text: plain, hidden: false });
      plain = '';
    }
    const code = character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0');
    pieces.push({ text: `U+${code}`, hidden: true });
  }
  if (plain) {
    pieces.push({ text: plain, hidden: false });
  }
  return pieces;
}

/** Is a link's scheme one that may be followed? Only absolute addresses of the web and of mail. */
export function isSafeLink(href: string): boolean {
  try {
    return ['http:', 'https:', 'mailto:'].includes(new URL(href).protocol);
  } catch {
    // relative, so no address of its own
    return false;
  }
}

/** What a terminal shows of its output, as far as plain lines can: no cursor movements, no overwritten lines. */
export function terminalText(output: string): string {
  return output
    .replace(/\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)/g, '')
    .replace(/\x1b\[[0-9;?]*[A-Za-ln-z]/g, '')
    .replace(/\r+\n/g, '\n')
    .replace(/[^\n]*\r(?=[^\n])/g, '')
    .replace(/\r$/gm, '');
}

/** Seconds as 2:14 or 1:02:03. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value: number) => String(value).padStart(2, '0');
  const minutes = Math.floor(whole / 60);
  return minutes < 60
    ? `${minutes}:${two(whole % 60)}`
    : `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
}
