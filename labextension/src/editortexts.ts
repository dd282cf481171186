/** What editors show and have not saved, offered to the agent of a session by one page. */

export type Texts = { readonly [path: string]: string };

export interface EditorTextsOptions {
  /** Text by path, as it is now. */
  readonly unsaved: () => Texts;
  /** Whether the agent would be told of it: only one whose files go through us is. */
  readonly isHeard: () => boolean;
  /** Offer these in place of what was offered before. */
  readonly offer: (texts: Texts) => Promise<void>;
}

/** Milliseconds between two looks at what editors show, while an agent works. */
const INTERVAL = 1000;

/** What the server has of a page that has offered nothing, or was not connected since. */
const NOTHING = '{}';

export class EditorTexts {
  constructor(private readonly options: EditorTextsOptions) {}

  /** Offer what editors show now, where the server does not have it yet. Rejects never. */
  async offer(texts = this.options.unsaved()): Promise<void> {
    const offered = JSON.stringify(texts);
    if (offered === this._offered || !this.options.isHeard()) {
      return;
    }
    this._offered = offered;
    try {
      await this.options.offer(texts);
    } catch {
      // the agent reads what is on disk; it is offered again with the next look
      this._offered = '';
    }
  }

  /** While a turn runs its agent is offered what is not saved, and nothing afterwards. */
  follow(isRunning: boolean): void {
    if (isRunning && this._looking === undefined) {
      this._looking = setInterval(() => void this.offer(), INTERVAL);
      void this.offer();
    } else if (!isRunning && this._looking !== undefined) {
      this.dispose();
      void this.offer({});
    }
  }

  /** An offer lasts no longer than the socket: the server has nothing of us. */
  forgotten(): void {
    this._offered = NOTHING;
  }

  /** Look no more. */
  dispose(): void {
    clearInterval(this._looking);
    this._looking = undefined;
  }

  private _offered = NOTHING;
  private _looking: ReturnType<typeof setInterval> | undefined;
}
