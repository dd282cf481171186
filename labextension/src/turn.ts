/**
 * One turn as it is shown: what its agent says and does, in order, folded from events. Pure. It knows nothing of the
 * chat around it; the rule of `model` holds here, so the piece that grows (`open`) is kept apart.
 */

import { feed, NO_TEXT, Streamed } from './streamed';
import type { Counts } from './wire/changes';
import type { AcpEvent, PlanEntry } from './wire/events';
import type { Message, Reactions } from './wire/messages';
import type { Problem, TurnInfo, TurnState } from './wire/session';
import type { ToolCall, ToolContent } from './wire/toolcalls';
import type { User } from './wire/users';

export type Item =
  | {
      readonly type: 'text';
      readonly id: string;
      readonly streamed: Streamed;
      readonly done: boolean;
    }
  | {
      readonly type: 'thought';
      readonly id: string;
      readonly streamed: Streamed;
      readonly done: boolean;
    }
  | { readonly type: 'content'; readonly id: string; readonly content: ToolContent }
  | { readonly type: 'tool'; readonly id: string; readonly call: ToolCall }
  | { readonly type: 'plan'; readonly id: string; readonly entries: readonly PlanEntry[] }
  | { readonly type: 'file'; readonly id: string; readonly path: string }
  | {
      readonly type: 'notice';
      readonly id: string;
      readonly severity: string;
      readonly title: string;
      readonly description: string;
    }
  | { readonly type: 'unknown'; readonly id: string; readonly update: unknown };

type OpenItem = Extract<Item, { streamed: Streamed }>;

export interface Terminal {
  readonly output: string;
  readonly truncated: boolean;
  readonly ended: boolean;
  readonly exitCode: number | null;
  readonly signal: string;
}

export interface Turn {
  readonly id: string;
  readonly state: TurnState;
  readonly text: string;
  readonly user: User;
  readonly messageId: string;
  readonly startedAt: number | null;
  /** When its latest event was recorded, by the server's clock; null before the first sign of life. */
  readonly lastSign: number | null;
  readonly items: readonly Item[];
  readonly open: OpenItem | null;
  readonly terminals: ReadonlyMap<string, Terminal>;
  readonly stopReason: string;
  readonly error: Problem | null;
  readonly elapsedMs: number;
  /** What it has changed, once it has ended. */
  readonly changes: Counts | null;
  /** What people think of the answer. */
  readonly reactions: Reactions;
}

const TERMINAL_LIMIT = 1 << 20;

/** A turn that begins; `info` is what the session says of it, if it does. */
export function started(
  id: string,
  text: string,
  user: User,
  messageId: string,
  info: TurnInfo | null
): Turn {
  return {
    id,
    state: info && info.state !== 'queued' ? info.state : 'running',
    text,
    user,
    messageId,
    startedAt: info?.startedAt ?? null,
    lastSign: null,
    items: [],
    open: null,
    terminals: new Map(),
    stopReason: '',
    error: null,
    elapsedMs: 0,
    changes: null,
    reactions: {}
  };
}

/** The turn after an event of its own. */
export function applyToTurn(before: Turn, event: AcpEvent): Turn {
  const turn = { ...before, lastSign: event.time };
  switch (event.kind) {
    case 'message_delta':
      if (event.role === 'user') {
        return turn;
      }
      return event.content
        ? push(turn, { type: 'content', id: `event-${event.seq}`, content: event.content })
        : grow(turn, 'text', event.messageId, event.text, event.seq);
    case 'thought_delta':
      return grow(turn, 'thought', event.messageId, event.text, event.seq);
    case 'message':
      return event.message.role === 'user'
        ? { ...turn, text: event.message.text, messageId: event.message.id }
        : complete(turn, event.message);
    case 'tool_call':
      return replaceOrPush(turn, { type: 'tool', id: `tool-${event.call.id}`, call: event.call });
    case 'plan':
      return replaceOrPush(turn, { type: 'plan', id: 'plan', entries: event.entries });
    case 'file_changed':
      return event.change === null
        ? replaceOrPush(turn, { type: 'file', id: `file-${event.path}`, path: event.path })
        : turn;
    case 'terminal_output':
      return terminal(turn, event.terminalId, known => {
        const output = known.output + event.data;
        const isLong = output.length > TERMINAL_LIMIT * 1.5;
        return {
          ...known,
          output: isLong ? output.slice(-TERMINAL_LIMIT) : output,
          truncated: known.truncated || event.truncated || isLong
        };
      });
    case 'terminal_exited':
      return terminal(turn, event.terminalId, known => ({
        ...known,
        ended: true,
        exitCode: event.exitCode,
        signal: event.signal
      }));
    case 'notice': {
      const { severity, title, description } = event;
      return push(turn, { type: 'notice', id: `event-${event.seq}`, severity, title, description });
    }
    case 'unknown_update':
      return push(turn, { type: 'unknown', id: `event-${event.seq}`, update: event.update });
    case 'turn_ended':
      return ended(turn, event);
    default:
      return turn;
  }
}

/** The turn as it stays. */
export function ended(turn: Turn, event: Extract<AcpEvent, { kind: 'turn_ended' }>): Turn {
  const { stopReason, error, elapsedMs, changes } = event;
  return { ...close(turn), state: 'ended', stopReason, error, elapsedMs, changes };
}

/** The activity of one finished turn, from its part of the log; null where that is not kept any more. */
export function replayTurn(id: string, log: readonly AcpEvent[]): Turn | null {
  if (log[0]?.kind !== 'turn_started') {
    return null;
  }
  let turn = started(id, '', { username: '', name: '' }, '', null);
  for (const event of log) {
    turn = applyToTurn(turn, event);
  }
  return close(turn);
}

/** A turn without its activity. */
export function answerOf(turn: Turn): Turn {
  const items = turn.items.filter(item => ['text', 'content', 'notice'].includes(item.type));
  return { ...turn, items };
}

/** The message of the chat that a turn's answer becomes, however many messages the agent made of it. */
export function answerId(turn: Turn): string {
  return `${turn.id}-agent`;
}

/** Every item as it stays: what grew is an item like the others. */
function close(turn: Turn): Turn {
  return turn.open
    ? { ...turn, items: [...turn.items, { ...turn.open, done: true }], open: null }
    : turn;
}

/** What is there is whole, and this comes after it. */
export function push(turn: Turn, item: Item): Turn {
  const closed = close(turn);
  return { ...closed, items: [...closed.items, item] };
}

function replaceOrPush(turn: Turn, item: Item): Turn {
  const index = turn.items.findLastIndex(known => known.id === item.id);
  return index < 0 ? push(turn, item) : { ...turn, items: turn.items.with(index, item) };
}

function grow(
  turn: Turn,
  type: 'text' | 'thought',
  source: string,
  text: string,
  seq: number
): Turn {
  const open = turn.open;
  if (open && open.type === type && sourceOf(open) === source) {
    return { ...turn, open: { ...open, streamed: feed(open.streamed, text) } };
  }
  const closed = close(turn);
  // one message may be interrupted by tool calls, so its pieces need names of their own
  const id = `${type}-${seq}-${source}`;
  return { ...closed, open: { type, id, streamed: feed(NO_TEXT, text), done: false } };
}

function sourceOf(item: OpenItem): string {
  return item.id.split('-').slice(2).join('-');
}

/** A whole message of the agent. Where its pieces are here already they stand; where they are not it is added. */
function complete(turn: Turn, message: Message): Turn {
  const closed = close(turn);
  const isHere = closed.items.some(item => item.type === 'text' && sourceOf(item) === message.id);
  if (isHere || !message.text) {
    return closed;
  }
  const streamed = feed(NO_TEXT, message.text);
  return push(closed, { type: 'text', id: `text-0-${message.id}`, streamed, done: true });
}

function terminal(turn: Turn, id: string, change: (known: Terminal) => Terminal): Turn {
  const none: Terminal = { output: '', truncated: false, ended: false, exitCode: null, signal: '' };
  const terminals = new Map(turn.terminals);
  terminals.set(id, change(terminals.get(id) ?? none));
  return { ...turn, terminals };
}
