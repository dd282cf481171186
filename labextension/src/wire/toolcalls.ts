/** What an agent does with a tool, and what it shows of it. Fields that are drawn as they are stay unknown. */

import { list, number, object, text } from './json';

export interface Location {
  readonly path: string;
  readonly line: number | null;
}

export type ToolContent =
  | { readonly type: 'text'; readonly text: string }
  | { readonly type: 'image'; readonly mimeType: string; readonly data: string }
  | {
      readonly type: 'diff';
      readonly path: string;
      readonly before: string;
      readonly after: string;
    }
  | { readonly type: 'terminal'; readonly terminalId: string }
  | { readonly type: 'other'; readonly raw: unknown };

export interface ToolCall {
  readonly id: string;
  readonly title: string;
  readonly kind: string;
  readonly status: string;
  /** Who carried it out: `agent`, `delegated` (we did, for it) or `mcp`. */
  readonly route: string;
  readonly content: readonly ToolContent[];
  readonly locations: readonly Location[];
  readonly rawInput: unknown;
  readonly rawOutput: unknown;
}

function toolContent(value: unknown): ToolContent {
  const raw = object(value);
  switch (raw.type) {
    case 'content':
      return block(raw.content);
    case 'diff':
      return {
        type: 'diff',
        path: text(raw.path),
        before: text(raw.oldText),
        after: text(raw.newText)
      };
    case 'terminal':
      return { type: 'terminal', terminalId: text(raw.terminalId) };
    default:
      return block(value);
  }
}

/** An ACP content block. */
export function block(value: unknown): ToolContent {
  const raw = object(value);
  if (raw.type === 'text') {
    return { type: 'text', text: text(raw.text) };
  }
  if (raw.type === 'image' && typeof raw.data === 'string') {
    return { type: 'image', mimeType: text(raw.mimeType), data: raw.data };
  }
  const resource = object(raw.resource);
  if (raw.type === 'resource' && typeof resource.text === 'string') {
    return { type: 'text', text: resource.text };
  }
  if (raw.type === 'resource_link') {
    return { type: 'text', text: text(raw.uri) || text(raw.name) };
  }
  return { type: 'other', raw: value };
}

export function toolCall(value: unknown): ToolCall {
  const raw = object(value);
  return {
    id: text(raw.toolCallId),
    title: text(raw.title) || text(raw.name) || text(raw.kind),
    kind: text(raw.kind) || 'other',
    status: text(raw.status) || 'pending',
    route: text(raw.route),
    content: list(raw.content).map(toolContent),
    locations: list(raw.locations).map(item => {
      const place = object(item);
      return { path: text(place.path), line: number(place.line) };
    }),
    rawInput: raw.rawInput,
    rawOutput: raw.rawOutput
  };
}
