/** What is asked for of turns only where somebody looks at it: all that happened in one, and what it has changed. */

import { replayTurn, Turn } from './turn';
import type { TurnDiff } from './wire/changes';
import type { AcpEvent } from './wire/events';

export interface TurnDetailsOptions {
  /** The part of the log that is the turn's. */
  readonly log: (turn: string) => Promise<readonly AcpEvent[]>;
  /** What the turn has changed, as it is now. */
  readonly diff: (turn: string) => Promise<TurnDiff>;
  /** Something is there that was not. */
  readonly changed: () => void;
}

export class TurnDetails {
  constructor(private readonly options: TurnDetailsOptions) {}

  /** Activity of finished turns that was asked for, by turn; null where it is not kept any more. */
  activity: ReadonlyMap<string, Turn | null> = new Map();
  /** What turns have changed whose changes are looked at: undefined until it is here, an error where that failed. */
  diffs: ReadonlyMap<string, TurnDiff | Error | undefined> = new Map();

  /** Rejects where the server does not give it. */
  async loadActivity(turn: string): Promise<void> {
    const log = await this.options.log(turn);
    this.activity = new Map(this.activity).set(turn, replayTurn(turn, log));
    this.options.changed();
  }

  /** Somebody looks at what a turn has changed: learn it, as it is now. */
  async loadDiff(turn: string): Promise<void> {
    this.diffs = new Map(this.diffs).set(turn, this.diffs.get(turn));
    let diff: TurnDiff | Error;
    try {
      diff = await this.options.diff(turn);
    } catch (error) {
      diff = error instanceof Error ? error : new Error(String(error));
    }
    if (this.diffs.has(turn)) {
      this.diffs = new Map(this.diffs).set(turn, diff);
      this.options.changed();
    }
  }

  /** The files are others now: learn it again, if somebody looks. */
  async reloadDiff(turn: string): Promise<void> {
    if (this.diffs.has(turn)) {
      await this.loadDiff(turn);
    }
  }

  /** Nobody looks at the changes of a turn any more. */
  forgetDiff(turn: string): void {
    this.diffs = new Map([...this.diffs].filter(([id]) => id !== turn));
    this.options.changed();
  }

  /** What is not kept here is asked for again where somebody looks at it. */
  drop(): void {
    this.activity = new Map();
    this.diffs = new Map([...this.diffs.keys()].map(turn => [turn, undefined]));
  }
}
