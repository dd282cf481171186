/** The log of a session. An unknown kind becomes `other` and keeps its place in the order. */

import { Counts, counts } from './changes';
import { flag, Json, list, number, object, present, text } from './json';
import { Message, Reactions, reactions } from './messages';
import { PermissionRequest, permission } from './permissions';
import {
  Command,
  command,
  Problem,
  problem,
  Summary,
  summaryFields,
  Usage,
  usage
} from './session';
import { block, ToolCall, toolCall, ToolContent } from './toolcalls';
import { User, user } from './users';

export interface PlanEntry {
  readonly content: string;
  readonly priority: string;
  readonly status: string;
}

export type Payload =
  | { readonly kind: 'session_changed'; readonly changes: Partial<Summary> }
  | { readonly kind: 'session_closed' }
  | {
      readonly kind: 'turn_queued';
      readonly id: string;
      readonly text: string;
      readonly user: User;
    }
  | { readonly kind: 'turn_edited'; readonly id: string; readonly text: string }
  | {
      readonly kind: 'turn_started';
      readonly id: string;
      readonly text: string;
      readonly user: User;
      readonly messageId: string;
    }
  | {
      readonly kind: 'turn_ended';
      readonly id: string;
      readonly stopReason: string;
      readonly error: Problem | null;
      readonly elapsedMs: number;
      readonly withdrawn: boolean;
      readonly changes: Counts | null;
    }
  | { readonly kind: 'message'; readonly message: Message }
  | {
      readonly kind: 'message_delta';
      readonly messageId: string;
      readonly role: 'user' | 'agent';
      readonly text: string;
      readonly content: ToolContent | null;
    }
  | {
      readonly kind: 'message_changed';
      readonly messageId: string;
      readonly text: string | null;
      readonly deleted: boolean | null;
      readonly edited: boolean | null;
      readonly reactions: Reactions | null;
    }
  | { readonly kind: 'thought_delta'; readonly messageId: string; readonly text: string }
  | { readonly kind: 'tool_call'; readonly call: ToolCall }
  | {
      readonly kind: 'terminal_output';
      readonly terminalId: string;
      readonly data: string;
      readonly truncated: boolean;
    }
  | {
      readonly kind: 'terminal_exited';
      readonly terminalId: string;
      readonly exitCode: number | null;
      readonly signal: string;
    }
  | { readonly kind: 'plan'; readonly entries: readonly PlanEntry[] }
  | { readonly kind: 'permission_requested'; readonly request: PermissionRequest }
  | { readonly kind: 'permission_resolved'; readonly id: string; readonly outcome: string }
  /** `change` is null where the agent has just had it written; what came of it follows at the end of the turn. */
  | { readonly kind: 'file_changed'; readonly path: string; readonly change: string | null }
  | {
      readonly kind: 'agent_started';
      readonly name: string;
      readonly version: string;
      readonly how: string;
    }
  | {
      readonly kind: 'agent_exited';
      readonly code: number | null;
      readonly signal: string;
      readonly message: string;
      readonly stderrTail: string;
    }
  | { readonly kind: 'usage'; readonly usage: Usage }
  | { readonly kind: 'commands'; readonly commands: readonly Command[] }
  | {
      readonly kind: 'notice';
      readonly severity: string;
      readonly title: string;
      readonly description: string;
    }
  | { readonly kind: 'unknown_update'; readonly update: unknown }
  | { readonly kind: 'session_created' }
  | { readonly kind: 'other'; readonly name: string };

export type AcpEvent = Payload & {
  readonly seq: number;
  readonly time: number;
  readonly turn: string | null;
};

function payload(kind: string, data: Json, time: number, turnId: string | null): Payload {
  switch (kind) {
    case 'session_created':
    case 'session_closed':
      return { kind };
    case 'session_changed':
      return { kind, changes: summaryFields(data) };
    case 'turn_queued':
      return { kind, id: text(data.id), text: text(data.text), user: user(data.user) };
    case 'turn_edited':
      return { kind, id: text(data.id), text: text(data.text) };
    case 'turn_started':
      return {
        kind,
        id: text(data.id),
        text: text(data.text),
        user: user(data.user),
        messageId: text(data.message_id)
      };
    case 'turn_ended':
      return {
        kind,
        id: text(data.id),
        stopReason: text(data.stop_reason),
        error: problem(data.error),
        elapsedMs: number(data.elapsed_ms) ?? 0,
        withdrawn: data.withdrawn === true,
        changes: counts(data.changes)
      };
    case 'message':
      return {
        kind,
        message: {
          id: text(data.message_id),
          role: data.role === 'user' ? 'user' : 'agent',
          text: text(data.text),
          sender: text(data.sender),
          time: number(data.time) ?? time,
          turn: turnId,
          deleted: false,
          edited: false,
          reactions: {},
          stopReason: '',
          elapsedMs: null,
          changes: null
        }
      };
    case 'message_delta':
      return {
        kind,
        messageId: text(data.message_id),
        role: data.role === 'user' ? 'user' : 'agent',
        text: text(data.text),
        content: present(data.content) ? block(data.content) : null
      };
    case 'message_changed':
      return {
        kind,
        messageId: text(data.message_id),
        text: typeof data.text === 'string' ? data.text : null,
        deleted: flag(data.deleted),
        edited: flag(data.edited),
        reactions: present(data.reactions) ? reactions(data.reactions) : null
      };
    case 'thought_delta':
      return { kind, messageId: text(data.message_id), text: text(data.text) };
    case 'tool_call':
      return { kind, call: toolCall(data) };
    case 'terminal_output':
      return {
        kind,
        terminalId: text(data.terminal_id),
        data: text(data.data),
        truncated: data.truncated === true
      };
    case 'terminal_exited':
      return {
        kind,
        terminalId: text(data.terminal_id),
        exitCode: number(data.exit_code),
        signal: text(data.signal)
      };
    case 'plan':
      return {
        kind,
        entries: list(data.entries).map(item => {
          const raw = object(item);
          return {
            content: text(raw.content),
            priority: text(raw.priority),
            status: text(raw.status)
          };
        })
      };
    case 'permission_requested':
      return { kind, request: permission(data) };
    case 'permission_resolved':
      return { kind, id: text(data.id), outcome: text(data.outcome) };
    case 'file_changed':
      return { kind, path: text(data.path), change: text(data.change) || null };
    case 'agent_started':
      return { kind, name: text(data.name), version: text(data.version), how: text(data.how) };
    case 'agent_exited':
      return {
        kind,
        code: number(data.code),
        signal: text(data.signal),
        message: text(data.message),
        stderrTail: text(data.stderr_tail)
      };
    case 'usage': {
      const now = usage(data);
      return now ? { kind, usage: now } : { kind: 'other', name: kind };
    }
    case 'commands':
      return { kind, commands: list(data.commands).map(command) };
    case 'notice':
      return {
        kind,
        severity: text(data.severity),
        title: text(data.title),
        description: text(data.description)
      };
    case 'unknown_update':
      return { kind, update: data.update };
    default:
      return { kind: 'other', name: kind };
  }
}

/** One event of the log. TypeError for what has no place in the order. */
export function event(value: unknown): AcpEvent {
  const raw = object(value);
  const seq = number(raw.seq);
  if (seq === null || typeof raw.kind !== 'string') {
    throw new TypeError('not an event: it has no seq or no kind');
  }
  const time = number(raw.time) ?? 0;
  const turnId = typeof raw.turn === 'string' ? raw.turn : null;
  return { ...payload(raw.kind, object(raw.data), time, turnId), seq, time, turn: turnId };
}

/** A JSON array of events, as REST and the socket give them. */
export function events(value: unknown): AcpEvent[] {
  if (!Array.isArray(value)) {
    throw new TypeError('not an array of events');
  }
  return value.map(event);
}
