/** People, as a login tells of them. */

import { object, text } from './json';

export interface User {
  readonly username: string;
  readonly name: string;
}

export function user(value: unknown): User {
  if (typeof value === 'string') {
    return { username: value, name: value };
  }
  const raw = object(value);
  const username = text(raw.username);
  return { username, name: text(raw.display_name) || text(raw.name) || username };
}
