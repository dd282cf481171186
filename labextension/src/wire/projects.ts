/** Projects as their members see them. */

import { list, number, object, present, text } from './json';
import { user } from './users';

/** A project as its members see it. */
export interface ProjectInfo {
  readonly id: string;
  readonly name: string;
  /** `running`, `stopped`, `starting` or `failed`. */
  readonly state: string;
  readonly role: string;
  /** Where its commands run: `local` (the server's machine) or `container`. */
  readonly kind: string;
  /** Why it could not be started; only where it was asked for by itself. */
  readonly error: string | null;
  /** What of its declaration is not in force although it runs; only where it was asked for by itself. */
  readonly warning: string | null;
  /** Tokens of model providers that it has used today, and may use in a day (0: no limit). */
  readonly usage: { readonly today: number; readonly limit: number } | null;
}

/** One project. */
export function project(value: unknown): ProjectInfo {
  const raw = object(value);
  const id = text(raw.id);
  const used = object(raw.usage);
  return {
    id,
    name: text(raw.name) || id,
    state: text(raw.state) || 'running',
    role: text(raw.role) || 'viewer',
    kind: text(raw.kind) || 'local',
    error: text(raw.error) || null,
    warning: text(raw.warning) || null,
    usage: present(raw.usage)
      ? { today: number(used.tokens_today) ?? 0, limit: number(used.token_limit) ?? 0 }
      : null
  };
}

/** The projects of a person. */
export function projects(value: unknown): ProjectInfo[] {
  return list(value)
    .map(project)
    .filter(one => one.id !== '');
}

/** What `GET /` says about who asks and which projects there are. */
export function root(value: unknown): { username: string; projects: ProjectInfo[] } {
  const raw = object(value);
  return { username: user(raw.user).username, projects: projects(raw.projects) };
}
