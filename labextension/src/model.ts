/**
 * What a chat shows, folded from events. Pure: no clock, no I/O, no JupyterLab. The one rule: `apply` costs O(1) for
 * a delta, however long the answer and the conversation are; so the piece that grows (`turn.open`) is kept apart.
 */

import type { Counts } from './wire/changes';
import type { AcpEvent, PlanEntry } from './wire/events';
import type { Message, MessagePage, Reactions } from './wire/messages';
import type { PermissionRequest } from './wire/permissions';
import type { Problem, Summary, TurnInfo, TurnState } from './wire/session';
import type { ToolCall, ToolContent } from './wire/toolcalls';
import type { User } from './wire/users';

/** Text that streams: whole Markdown blocks, the lines of the block that grows, and the line that grows. */
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

/** What is above the running turn: messages of the chat, turns that ended while we looked, what happened to the agent. */
export type Entry =
  | { readonly type: 'message'; readonly id: string; readonly message: Message }
  | {
      readonly type: 'turn';
      readonly id: string;
      readonly turn: Turn;
      /** There was more than the answer, which is not kept any more. */
      readonly isDiscarded: boolean;
    }
  | {
      readonly type: 'notice';
      readonly id: string;
      readonly item: Extract<Item, { type: 'notice' }>;
    };

export interface ChatState {
  readonly session: Summary;
  readonly lastSeq: number;
  readonly entries: readonly Entry[];
  readonly hasMore: boolean;
  readonly users: ReadonlyMap<string, string>;
  readonly active: Turn | null;
  readonly queue: readonly TurnInfo[];
  readonly permissions: readonly PermissionRequest[];
  readonly closed: boolean;
}

const TERMINAL_LIMIT = 1 << 20;

/** The state of a page that opens. Replay the log from `firstAfter` on top of it. */
export function initial(session: Summary, page: MessagePage): ChatState {
  const running = session.turns.find(turn => turn.state !== 'queued');
  return {
    session,
    lastSeq: session.lastSeq,
    entries: page.messages
      .filter(message => !running || message.turn !== running.id)
      .map(message => ({ type: 'message', id: message.id, message })),
    hasMore: page.hasMore,
    users: page.users,
    active: running ? started(running.id, running.text, running.user, '', running) : null,
    queue: session.turns.filter(turn => turn.state === 'queued'),
    permissions: session.permissions,
    closed: false
  };
}

/** Where to follow the log from: the start of the running turn, else what the summary already tells. */
export function firstAfter(session: Summary): number {
  const running = session.turns.find(turn => turn.state !== 'queued');
  return running?.startedSeq ? running.startedSeq - 1 : session.lastSeq;
}

/** The server's log cannot be gone on with after `after`: it was lost, or what follows is not kept any more. */
export function isBroken(session: Summary, after: number): boolean {
  return session.lastSeq < after || session.firstSeq > after + 1;
}

/** An older page goes on top. */
export function prepend(state: ChatState, page: MessagePage): ChatState {
  const known = new Set(state.entries.map(entry => entry.id));
  const older = page.messages
    .filter(message => !known.has(message.id))
    .map((message): Entry => ({ type: 'message', id: message.id, message }));
  return {
    ...state,
    entries: [...older, ...state.entries],
    hasMore: page.hasMore,
    users: new Map([...page.users, ...state.users])
  };
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

/** Fold a batch. */
export function applyAll(state: ChatState, batch: readonly AcpEvent[]): ChatState {
  return batch.reduce(apply, state);
}

/** The state after `event`. */
export function apply(state: ChatState, event: AcpEvent): ChatState {
  // events that the summary already tells are only replayed for what the running turn shows
  const told = event.seq <= state.session.lastSeq;
  const next: ChatState = { ...state, lastSeq: Math.max(state.lastSeq, event.seq) };
  switch (event.kind) {
    case 'session_changed':
      return told ? next : sessionChanged(next, event.changes);
    case 'session_closed':
      return { ...next, closed: true };
    case 'turn_queued': {
      if (told || state.queue.some(turn => turn.id === event.id) || state.active?.id === event.id) {
        return next;
      }
      const { id, text, user } = event;
      const turn: TurnInfo = { id, text, user, state: 'queued', startedSeq: null, startedAt: null };
      return { ...next, queue: [...state.queue, turn] };
    }
    case 'turn_edited':
      return {
        ...next,
        queue: state.queue.map(turn =>
          turn.id === event.id ? { ...turn, text: event.text } : turn
        )
      };
    case 'turn_started': {
      const info = state.session.turns.find(turn => turn.id === event.id);
      const turn = started(event.id, event.text, event.user, event.messageId, info ?? null);
      return {
        ...next,
        active: { ...turn, startedAt: turn.startedAt ?? event.time },
        // a page that was read after the turn began has its messages already
        entries: state.entries.some(entry => belongsTo(entry, event.id))
          ? state.entries.filter(entry => !belongsTo(entry, event.id))
          : state.entries,
        queue: state.queue.filter(queued => queued.id !== event.id)
      };
    }
    case 'turn_ended':
      return turnEnded(next, event);
    case 'message_changed':
      return messageChanged(next, event);
    case 'permission_requested':
      return {
        ...touched(next, event),
        permissions: state.permissions.some(known => known.id === event.request.id)
          ? state.permissions
          : told
            ? state.permissions
            : [...state.permissions, event.request]
      };
    case 'permission_resolved':
      return {
        ...touched(next, event),
        permissions: state.permissions.filter(request => request.id !== event.id)
      };
    case 'usage':
      return told ? next : sessionChanged(next, { usage: event.usage });
    case 'commands':
      return told ? next : sessionChanged(next, { commands: event.commands });
    case 'message':
      return state.active && (!event.turn || event.turn === state.active.id)
        ? touched(next, event)
        : addMessage(next, event.message);
    case 'agent_exited': {
      if (told) {
        return next;
      }
      const how = event.signal || (event.code === null ? event.message : String(event.code));
      return addNotice(next, event, 'agent_exited', how, event.stderrTail);
    }
    case 'notice':
      return state.active
        ? touched(next, event)
        : addNotice(next, event, event.severity, event.title, event.description);
    default:
      return state.active ? touched(next, event) : next;
  }
}

// --- the session ---------------------------------------------------------------------------------------------------

function sessionChanged(state: ChatState, changes: Partial<Summary>): ChatState {
  const session = { ...state.session, ...changes, lastSeq: state.session.lastSeq };
  let { active, queue, entries } = state;
  if (session.firstSeq > state.session.firstSeq) {
    // a person discarded the activity of the turns that have ended
    entries = entries.map(entry => (entry.type === 'turn' ? discarded(entry) : entry));
  }
  if (changes.turns) {
    const now = changes.turns.find(turn => turn.id === active?.id);
    if (active && now && now.state !== active.state) {
      active = { ...active, state: now.state, startedAt: now.startedAt ?? active.startedAt };
    }
    const kept = new Map(queue.map(turn => [turn.id, turn]));
    queue = changes.turns
      .filter(turn => turn.state === 'queued')
      // the list shortens long texts, turn_queued does not
      .map(turn => ({ ...turn, text: kept.get(turn.id)?.text ?? turn.text }));
  }
  return {
    ...state,
    session,
    active,
    queue,
    entries,
    permissions: changes.permissions ?? state.permissions
  };
}

function discarded(entry: Extract<Entry, { type: 'turn' }>): Entry {
  const turn = answerOf(entry.turn);
  const isLess = turn.items.length < entry.turn.items.length;
  return { ...entry, turn, isDiscarded: entry.isDiscarded || isLess };
}

function addNotice(
  state: ChatState,
  event: AcpEvent,
  severity: string,
  title: string,
  description: string
): ChatState {
  const id = `event-${event.seq}`;
  const item = { type: 'notice', id, severity, title, description } as const;
  if (state.active) {
    return { ...state, active: push(state.active, item) };
  }
  return { ...state, entries: [...state.entries, { type: 'notice', id, item }] };
}

function addMessage(state: ChatState, message: Message): ChatState {
  const known = state.entries.some(
    entry =>
      entry.id === message.id ||
      (entry.type === 'turn' && message.turn !== null && entry.turn.id === message.turn)
  );
  return known
    ? state
    : { ...state, entries: [...state.entries, { type: 'message', id: message.id, message }] };
}

function messageChanged(
  state: ChatState,
  event: Extract<AcpEvent, { kind: 'message_changed' }>
): ChatState {
  const entries = state.entries.map((entry): Entry => {
    if (entry.type === 'message' && entry.id === event.messageId) {
      const message = {
        ...entry.message,
        text: event.text ?? entry.message.text,
        deleted: event.deleted ?? entry.message.deleted,
        edited: event.edited ?? entry.message.edited,
        reactions: event.reactions ?? entry.message.reactions
      };
      return { ...entry, message };
    }
    if (entry.type === 'turn' && entry.turn.messageId === event.messageId) {
      const text = event.deleted ? '' : (event.text ?? entry.turn.text);
      return { ...entry, turn: { ...entry.turn, text } };
    }
    if (entry.type === 'turn' && event.reactions && answerId(entry.turn) === event.messageId) {
      return { ...entry, turn: { ...entry.turn, reactions: event.reactions } };
    }
    return entry;
  });
  return { ...state, entries };
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

function belongsTo(entry: Entry, turnId: string): boolean {
  return entry.type === 'message' && entry.message.turn === turnId;
}

// --- turns ---------------------------------------------------------------------------------------------------------

function started(
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

function turnEnded(state: ChatState, event: Extract<AcpEvent, { kind: 'turn_ended' }>): ChatState {
  const queue = state.queue.filter(turn => turn.id !== event.id);
  if (state.active?.id !== event.id) {
    return { ...state, queue };
  }
  const { stopReason, error, elapsedMs, changes } = event;
  const ended = { state: 'ended', stopReason, error, elapsedMs, changes } as const;
  const turn: Turn = { ...close(state.active), ...ended };
  return {
    ...state,
    active: null,
    queue,
    entries: [...state.entries, { type: 'turn', id: `turn-${turn.id}`, turn, isDiscarded: false }]
  };
}

/** The running turn after an event; one of another turn (it comes late) leaves it as it is. */
function touched(state: ChatState, event: AcpEvent): ChatState {
  const turn = state.active;
  if (!turn || (event.turn !== null && event.turn !== turn.id)) {
    return state;
  }
  return { ...state, active: applyToTurn(turn, event) };
}

/** Every item as it stays: what grew is an item like the others. */
export function close(turn: Turn): Turn {
  return turn.open
    ? { ...turn, items: [...turn.items, { ...turn.open, done: true }], open: null }
    : turn;
}

function applyToTurn(before: Turn, event: AcpEvent): Turn {
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
      return {
        ...close(turn),
        state: 'ended',
        stopReason: event.stopReason,
        error: event.error,
        elapsedMs: event.elapsedMs,
        changes: event.changes
      };
    default:
      return turn;
  }
}

function push(turn: Turn, item: Item): Turn {
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
