/** A session as the server sums it up: with its options, its turns that have not ended, and what waits for a person. */

import { list, number, object, present, text } from './json';
import { PermissionRequest, permission } from './permissions';
import { User, user } from './users';

export interface OptionChoice {
  readonly value: string;
  readonly name: string;
  readonly description: string;
}

export interface ConfigOption {
  readonly id: string;
  readonly name: string;
  readonly category: string;
  readonly description: string;
  readonly type: string;
  readonly value: string | boolean;
  readonly choices: readonly OptionChoice[];
}

export interface Command {
  readonly name: string;
  readonly description: string;
}

export interface Usage {
  readonly used: number;
  readonly size: number;
  readonly cost: string;
}

export type TurnState = 'queued' | 'running' | 'requires_action' | 'cancelling' | 'ended';

export interface TurnInfo {
  readonly id: string;
  readonly state: TurnState;
  readonly text: string;
  readonly user: User;
  readonly startedSeq: number | null;
  readonly startedAt: number | null;
}

export interface Problem {
  readonly message: string;
  readonly reason: string;
}

/** What the agent may do: as it is in force, and what could be chosen. */
export interface Access {
  /** What was asked for: in force from the next turn on, where it is not yet. */
  readonly requested: string;
  readonly effective: string;
  readonly choices: readonly { id: string; isAvailable: boolean; reason: string }[];
}

/** The session as the server sums it up. `session_changed` carries any of these fields, each as a whole. */
export interface Summary {
  readonly id: string;
  readonly project: string;
  readonly path: string;
  readonly title: string;
  readonly agent: string;
  readonly agentSessionId: string;
  readonly placement: string;
  readonly cwd: string;
  readonly state: string;
  readonly access: Access;
  readonly options: readonly ConfigOption[];
  readonly commands: readonly Command[];
  readonly usage: Usage | null;
  readonly turns: readonly TurnInfo[];
  readonly permissions: readonly PermissionRequest[];
  /** The oldest event that is kept. */
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly created: number;
  readonly readOnly: string | null;
  readonly error: Problem | null;
}

export function problem(value: unknown): Problem | null {
  if (!present(value)) {
    return null;
  }
  const raw = object(value);
  return { message: text(raw.message) || text(value), reason: text(raw.reason) };
}

function choices(value: unknown): OptionChoice[] {
  return list(value).flatMap(item => {
    const raw = object(item);
    // ACP allows groups of values
    return Array.isArray(raw.options)
      ? choices(raw.options)
      : [
          {
            value: text(raw.value),
            name: text(raw.name) || text(raw.value),
            description: text(raw.description)
          }
        ];
  });
}

function option(value: unknown): ConfigOption {
  const raw = object(value);
  return {
    id: text(raw.id),
    name: text(raw.name) || text(raw.id),
    category: text(raw.category),
    description: text(raw.description),
    type: text(raw.type) || 'select',
    value: typeof raw.currentValue === 'boolean' ? raw.currentValue : text(raw.currentValue),
    choices: choices(raw.options)
  };
}

export function command(value: unknown): Command {
  const raw = object(value);
  return { name: text(raw.name), description: text(raw.description) };
}

export function usage(value: unknown): Usage | null {
  const raw = object(value);
  const used = number(raw.used);
  const size = number(raw.size);
  if (used === null) {
    return null;
  }
  const cost = object(raw.cost);
  const amount = number(cost.amount);
  return {
    used,
    // a window is never smaller than what is used of it
    size: size ? Math.max(size, used) : 0,
    cost: amount === null ? '' : `${amount.toFixed(2)} ${text(cost.currency)}`.trim()
  };
}

const TURN_STATES: readonly string[] = ['queued', 'running', 'requires_action', 'cancelling'];

function turn(value: unknown): TurnInfo {
  const raw = object(value);
  const state = text(raw.state);
  return {
    id: text(raw.id),
    state: TURN_STATES.includes(state) ? (state as TurnState) : 'ended',
    text: text(raw.text),
    user: user(raw.user),
    startedSeq: number(raw.started_seq),
    startedAt: number(raw.started_at)
  };
}

function access(value: unknown): Access {
  const raw = object(value);
  return {
    requested: text(raw.requested) || text(raw.effective),
    effective: text(raw.effective),
    choices: list(raw.available).map(item => {
      const choice = object(item);
      return {
        id: text(choice.id),
        isAvailable: choice.available === true,
        reason: text(choice.reason)
      };
    })
  };
}

const SUMMARY_READERS: { [key: string]: (value: unknown) => Partial<Summary> } = {
  id: value => ({ id: text(value) }),
  project: value => ({ project: text(value) }),
  path: value => ({ path: text(value) }),
  title: value => ({ title: text(value) }),
  agent: value => ({ agent: text(value) }),
  agent_session_id: value => ({ agentSessionId: text(value) }),
  placement: value => ({ placement: text(value) }),
  cwd: value => ({ cwd: text(value) }),
  state: value => ({ state: text(value) }),
  access: value => ({ access: access(value) }),
  config_options: value => ({ options: list(value).map(option) }),
  commands: value => ({ commands: list(value).map(command) }),
  usage: value => ({ usage: usage(value) }),
  turns: value => ({ turns: list(value).map(turn) }),
  permissions: value => ({ permissions: list(value).map(permission) }),
  first_seq: value => ({ firstSeq: number(value) ?? 1 }),
  last_seq: value => ({ lastSeq: number(value) ?? 0 }),
  created: value => ({ created: number(value) ?? 0 }),
  read_only: value => ({ readOnly: value ? text(value) || 'read only' : null }),
  error: value => ({ error: problem(value) })
};

/** Those of its fields that are there. */
export function summaryFields(value: unknown): Partial<Summary> {
  const result: Partial<Summary> = {};
  for (const [name, item] of Object.entries(object(value))) {
    Object.assign(result, SUMMARY_READERS[name]?.(item));
  }
  return result;
}

const EMPTY: Summary = {
  id: '',
  project: '',
  path: '',
  title: '',
  agent: '',
  agentSessionId: '',
  placement: '',
  cwd: '',
  state: 'idle',
  access: { requested: '', effective: '', choices: [] },
  options: [],
  commands: [],
  usage: null,
  turns: [],
  permissions: [],
  firstSeq: 1,
  lastSeq: 0,
  created: 0,
  readOnly: null,
  error: null
};

/** A session summary. */
export function summary(value: unknown): Summary {
  return { ...EMPTY, ...summaryFields(value) };
}

export function summaries(value: unknown): Summary[] {
  return list(value).map(summary);
}
