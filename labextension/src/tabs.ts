/**
 * Which chat a tab of another project shows, kept by this browser and by nothing else: JupyterLab's workspaces are read
 * by whoever uses the server, and who is no member of a project must not learn that there is one. There a tab has a
 * number that says nothing.
 */

import { object, text } from './wire/json';

export interface ChatPlace {
  readonly project: string;
  readonly path: string;
}

const KEY = 'jupyter-acp:tabs';

export class ChatTabs {
  constructor(private readonly storage: Pick<Storage, 'getItem' | 'setItem'>) {}

  /** What a tab shows; null for one that this browser knows nothing of. */
  get(tab: string): ChatPlace | null {
    const kept = object(this._read()[tab]);
    return kept.project && kept.path
      ? { project: text(kept.project), path: text(kept.path) }
      : null;
  }

  /** Null: it was closed. */
  set(tab: string, place: ChatPlace | null): void {
    const { [tab]: _, ...others } = this._read();
    this.storage.setItem(KEY, JSON.stringify(place ? { ...others, [tab]: place } : others));
  }

  private _read(): { readonly [tab: string]: unknown } {
    try {
      return object(JSON.parse(this.storage.getItem(KEY) ?? '{}'));
    } catch {
      return {}; // damaged; the chats are in the list all the same
    }
  }
}
