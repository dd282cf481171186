/**
 * What a chat shows, folded from events. Pure: no clock, no I/O, no JupyterLab. The one rule: `apply` costs O(1) for
 * a delta, however long the answer and the conversation are.
 */

import { answerId, answerOf, applyToTurn, ended, Item, push, started, Turn } from './turn';
import type { AcpEvent } from './wire/events';
import type { Message, MessagePage } from './wire/messages';
import type { PermissionRequest } from './wire/permissions';
import type { Summary, TurnInfo } from './wire/session';

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

function runningIn(session: Summary): TurnInfo | undefined {
  return session.turns.find(turn => turn.state !== 'queued');
}

/** The state of a page that opens. Replay the log from `firstAfter` on top of it. */
export function initial(session: Summary, page: MessagePage): ChatState {
  const running = runningIn(session);
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
  const running = runningIn(session);
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

function belongsTo(entry: Entry, turnId: string): boolean {
  return entry.type === 'message' && entry.message.turn === turnId;
}

// --- turns ---------------------------------------------------------------------------------------------------------

function turnEnded(state: ChatState, event: Extract<AcpEvent, { kind: 'turn_ended' }>): ChatState {
  const queue = state.queue.filter(turn => turn.id !== event.id);
  if (state.active?.id !== event.id) {
    return { ...state, queue };
  }
  const turn = ended(state.active, event);
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
