/**
 * The socket of one session: the log from `after` on, each event once and in order, however often it reconnects.
 * Knows nothing of what events mean.
 */

import { AcpEvent, events } from './wire/events';

export type ConnectionState = 'connecting' | 'connected' | 'waiting' | 'closed';

/** What is needed of a WebSocket. */
export interface Socket {
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  close(): void;
}

export interface ConnectionOptions {
  /** Open a socket that sends the log after this number. */
  readonly open: (after: number) => Socket;
  readonly after: number;
  readonly onEvents: (events: readonly AcpEvent[]) => void;
  readonly onState: (state: ConnectionState) => void;
  /**
   * Asked before every reconnection: where to go on from, for the log may have been lost with the server, or null to
   * go on from the last event. Rejects where the server cannot be reached.
   */
  readonly check?: () => Promise<number | null>;
  readonly signal: AbortSignal;
  readonly schedule?: (callback: () => void, delay: number) => () => void;
}

const FIRST_DELAY = 500;
const LONGEST_DELAY = 15_000;

function timeout(callback: () => void, delay: number): () => void {
  const handle = setTimeout(callback, delay);
  return () => clearTimeout(handle);
}

export class Connection {
  constructor(private readonly options: ConnectionOptions) {
    this._lastSeq = options.after;
    options.signal.addEventListener('abort', () => this.close());
    if (!options.signal.aborted) {
      this._connect();
    }
  }

  /** The last event that was handed on. */
  get lastSeq(): number {
    return this._lastSeq;
  }

  /** Do not wait for the back-off: the network is there again, or a person asks. */
  retry(): void {
    if (this._cancelTimer) {
      this._cancelTimer();
      this._cancelTimer = null;
      void this._reconnect();
    }
  }

  private _connect(): void {
    this.options.onState('connecting');
    const socket = this.options.open(this._lastSeq);
    this._socket = socket;
    socket.onopen = () => {
      if (socket === this._socket) {
        this._delay = FIRST_DELAY;
        this.options.onState('connected');
      }
    };
    socket.onmessage = (message: { data: unknown }) => {
      if (socket === this._socket) {
        this._receive(message.data);
      }
    };
    socket.onclose = () => {
      if (socket === this._socket) {
        this._socket = null;
        this._wait();
      }
    };
  }

  private _receive(data: unknown): void {
    let batch: AcpEvent[];
    try {
      batch = events(JSON.parse(String(data)));
    } catch (error) {
      console.error('jupyter-acp: the server sent what is no list of events', error);
      this._drop();
      return;
    }
    const fresh: AcpEvent[] = [];
    for (const event of batch) {
      if (event.seq <= this._lastSeq) {
        continue;
      }
      if (event.seq !== this._lastSeq + 1) {
        // something is missing: ask again from where we are
        break;
      }
      this._lastSeq = event.seq;
      fresh.push(event);
    }
    if (fresh.length > 0) {
      this._delay = FIRST_DELAY;
      this.options.onEvents(fresh);
    }
    const last = batch[batch.length - 1];
    if (last && last.seq > this._lastSeq) {
      this._drop();
    }
  }

  private _drop(): void {
    const socket = this._socket;
    this._socket = null;
    socket?.close();
    this._wait();
  }

  private _wait(): void {
    if (this._isClosed) {
      return;
    }
    this.options.onState('waiting');
    const delay = this._delay;
    this._delay = Math.min(LONGEST_DELAY, delay * 2);
    this._cancelTimer = (this.options.schedule ?? timeout)(() => {
      this._cancelTimer = null;
      void this._reconnect();
    }, delay);
  }

  private async _reconnect(): Promise<void> {
    try {
      this._lastSeq = (await this.options.check?.()) ?? this._lastSeq;
    } catch {
      // why it cannot be reached is on screen as 'waiting'; the next attempt is scheduled
      this._wait();
      return;
    }
    if (!this._isClosed) {
      this._connect();
    }
  }

  /** Idempotent; nothing is handed on afterwards. */
  close(): void {
    if (this._isClosed) {
      return;
    }
    this._isClosed = true;
    this._cancelTimer?.();
    this._cancelTimer = null;
    const socket = this._socket;
    this._socket = null;
    socket?.close();
    this.options.onState('closed');
  }

  private _isClosed = false;
  private _lastSeq: number;
  private _delay = FIRST_DELAY;
  private _socket: Socket | null = null;
  private _cancelTimer: (() => void) | null = null;
}
