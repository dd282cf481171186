/**
 * What a person has written in one session and the server does not have yet: prompts on their way, those that did not
 * arrive, and the draft. Kept by the browser, so that a reload does not lose it.
 */

import { list, object, text } from './wire/json';

/** A prompt on its way, or one that did not arrive. Its id makes sending it again harmless. */
export interface Unsent {
  readonly id: string;
  readonly text: string;
  readonly error: string | null;
}

export class Outbox {
  /** `hasArrived`: what was on its way when the page went may be in the session by now. */
  constructor(
    private readonly storage: Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>,
    private readonly session: string,
    hasArrived: (id: string) => boolean
  ) {
    this._unsent = kept(this._read('unsent'))
      .filter(one => !hasArrived(one.id))
      // nobody sends it any more: it waits for the person
      .map(one => ({ ...one, error: one.error ?? '' }));
  }

  get unsent(): readonly Unsent[] {
    return this._unsent;
  }

  /** A prompt goes, for the first time or again. */
  add(id: string, text: string): void {
    this._set([...this._unsent.filter(one => one.id !== id), { id, text, error: null }]);
  }

  /** It did not arrive, as far as we know. */
  failed(id: string, error: string): void {
    this._set(this._unsent.map(one => (one.id === id ? { ...one, error } : one)));
  }

  /** They have arrived, or are given up. */
  remove(ids: ReadonlySet<string>): void {
    if (this._unsent.some(one => ids.has(one.id))) {
      this._set(this._unsent.filter(one => !ids.has(one.id)));
    }
  }

  get draft(): string {
    return this._read('draft');
  }

  set draft(text: string) {
    this._write('draft', text);
  }

  private _set(unsent: readonly Unsent[]): void {
    this._unsent = unsent;
    this._write('unsent', unsent.length > 0 ? JSON.stringify(unsent) : '');
  }

  private _read(name: string): string {
    return this.storage.getItem(`jupyter-acp:${name}:${this.session}`) ?? '';
  }

  private _write(name: string, value: string): void {
    const key = `jupyter-acp:${name}:${this.session}`;
    if (value) {
      this.storage.setItem(key, value);
    } else {
      this.storage.removeItem(key);
    }
  }

  private _unsent: readonly Unsent[];
}

function kept(json: string): Unsent[] {
  return list(parsed(json))
    .map(item => {
      const raw = object(item);
      const error = typeof raw.error === 'string' ? raw.error : null;
      return { id: text(raw.id), text: text(raw.text), error };
    })
    .filter(item => item.id && item.text);
}

/** What is in storage may be damaged, which is no reason not to open the chat. */
function parsed(json: string): unknown {
  try {
    return JSON.parse(json || '[]');
  } catch {
    return [];
  }
}
