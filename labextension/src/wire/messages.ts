/** The conversation, as pages of the chat give it. */

import { Counts, counts } from './changes';
import { list, number, object, text } from './json';
import { user } from './users';

/** Who gave which reaction, by its name. */
export type Reactions = { readonly [name: string]: readonly string[] };

/** A message of the conversation as a page of the chat gives it. */
export interface Message {
  readonly id: string;
  readonly role: 'user' | 'agent';
  readonly text: string;
  readonly sender: string;
  readonly time: number;
  readonly turn: string | null;
  readonly deleted: boolean;
  readonly edited: boolean;
  readonly reactions: Reactions;
  readonly stopReason: string;
  readonly elapsedMs: number | null;
  /** What the turn that it answers has changed. */
  readonly changes: Counts | null;
}

export interface MessagePage {
  readonly messages: readonly Message[];
  readonly hasMore: boolean;
  readonly users: ReadonlyMap<string, string>;
}

export function reactions(value: unknown): Reactions {
  return Object.fromEntries(
    Object.entries(object(value)).map(([name, people]) => [name, list(people).map(text)])
  );
}

/** A page of the conversation. */
export function messages(value: unknown): MessagePage {
  const raw = object(value);
  return {
    messages: list(raw.messages).map(item => {
      const message = object(item);
      const acp = object(object(message.metadata).acp);
      const sender = text(message.sender);
      const isAgent = message.role ? message.role === 'agent' : sender.startsWith('acp-');
      return {
        id: text(message.id),
        role: isAgent ? 'agent' : 'user',
        text: text(message.body),
        sender,
        time: number(message.time) ?? 0,
        turn: text(acp.turn) || null,
        deleted: message.deleted === true,
        edited: message.edited === true,
        reactions: reactions(acp.reactions),
        stopReason: text(acp.stop_reason),
        elapsedMs: number(acp.elapsed_ms),
        changes: counts(acp.changes)
      };
    }),
    hasMore: raw.has_more === true,
    users: new Map(Object.entries(object(raw.users)).map(([name, item]) => [name, user(item).name]))
  };
}
