/** Documents that are open in JupyterLab: what of them is not saved, and what becomes of them when an agent writes. */

import type { Texts } from './editortexts';

/** What is used of a document's context. */
export interface OpenDocument {
  /** Relative to the server's folder. */
  readonly path: string;
  readonly isReady: boolean;
  readonly model: {
    readonly dirty: boolean;
    readonly collaborative?: boolean;
    toString(): string;
  };
  readonly contentsModel: {
    readonly type: string;
    readonly format: string | null;
    readonly last_modified: string;
  } | null;
  revert(): Promise<void>;
}

export interface Options {
  /** Every document that is open, each once. */
  readonly open: () => Iterable<OpenDocument>;
  /** When the file of a path was modified last. */
  readonly modified: (path: string) => Promise<string>;
  /** Tell the person that a file was changed beneath what they have not saved. */
  readonly tell: (path: string) => void;
}

/** What the server takes. */
const FILES = 20;
const FILE_BYTES = 2 << 20;

export class OpenDocuments {
  constructor(private readonly options: Options) {}

  /** Text by path of those that have one which is not saved. Notebooks have none: what is on disk is not what they show. */
  unsaved(): Texts {
    const texts: [string, string][] = [];
    for (const { path, isReady, model, contentsModel } of this.options.open()) {
      if (
        isReady &&
        model.dirty &&
        contentsModel?.type === 'file' &&
        contentsModel.format === 'text'
      ) {
        texts.push([path, model.toString()]);
      }
    }
    const fitting = texts.filter(([, text]) => new Blob([text]).size <= FILE_BYTES);
    return Object.fromEntries(fitting.slice(0, FILES));
  }

  /** Show what the files are now, of documents without changes of the person's own; the others stay, and are told of. */
  async reload(): Promise<void> {
    this._again = this._running;
    if (this._running) {
      return;
    }
    this._running = true;
    do {
      this._again = false;
      await Promise.all([...this.options.open()].map(document => this._reload(document)));
    } while (this._again);
    this._running = false;
  }

  private async _reload(document: OpenDocument): Promise<void> {
    // one that several people edit together is seen to by the server
    if (!document.isReady || document.model.collaborative || !document.contentsModel) {
      return;
    }
    try {
      const modified = await this.options.modified(document.path);
      if (modified === document.contentsModel.last_modified) {
        return;
      }
      if (!document.model.dirty) {
        await document.revert();
      } else if (this._told.get(document.path) !== modified) {
        this._told.set(document.path, modified);
        this.options.tell(document.path);
      }
    } catch {
      // it was deleted, or the server does not answer: JupyterLab says so when it is saved
    }
  }

  private _running = false;
  private _again = false;
  private readonly _told = new Map<string, string>();
}
