/** The catalogue of agents. */

import { list, object, text } from './json';

export interface AgentInfo {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly available: boolean;
  readonly version: string;
  readonly hint: string;
  readonly isDefault: boolean;
}

/** The catalogue of agents. */
export function agents(value: unknown): AgentInfo[] {
  return list(value).map(item => {
    const raw = object(item);
    const id = text(raw.id);
    return {
      id,
      name: text(raw.name) || id,
      description: text(raw.description),
      available: raw.available !== false,
      version: text(raw.version),
      hint: text(raw.hint),
      isDefault: raw.default === true
    };
  });
}
