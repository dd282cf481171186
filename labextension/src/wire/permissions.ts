/** What an agent asks a person. */

import { Json, list, object, text } from './json';
import { ToolCall, toolCall } from './toolcalls';

export interface PermissionOption {
  readonly id: string;
  readonly name: string;
  readonly kind: string;
}

export interface Elicitation {
  readonly message: string;
  readonly mode: 'form' | 'url';
  readonly url: string;
  readonly schema: Json;
}

export interface PermissionRequest {
  readonly id: string;
  readonly kind: 'permission' | 'elicitation';
  readonly toolCall: ToolCall;
  readonly options: readonly PermissionOption[];
  readonly elicitation: Elicitation | null;
}

export function permission(value: unknown): PermissionRequest {
  const raw = object(value);
  const asked = object(raw.elicitation);
  const isElicitation = raw.kind === 'elicitation';
  return {
    id: text(raw.id),
    kind: isElicitation ? 'elicitation' : 'permission',
    toolCall: toolCall(raw.tool_call),
    options: list(raw.options).map(item => {
      const choice = object(item);
      const id = text(choice.optionId);
      return { id, name: text(choice.name) || id, kind: text(choice.kind) };
    }),
    elicitation: isElicitation
      ? {
          message: text(asked.message),
          mode: asked.mode === 'url' ? 'url' : 'form',
          url: text(asked.url),
          schema: object(asked.requestedSchema)
        }
      : null
  };
}
