/**
 * What comes off the wire, narrowed from `unknown` once, here. Nothing else in this package looks at raw JSON.
 *
 * Readers are lenient: an unknown kind becomes `other` and keeps its place in the order, an unknown field is kept
 * where it is drawn (tool calls), and a field of the wrong type reads as missing.
 */

export type Json = { readonly [key: string]: unknown };

export interface User {
  readonly username: string;
  readonly name: string;
}

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

export interface PlanEntry {
  readonly content: string;
  readonly priority: string;
  readonly status: string;
}

/** What the agent may do: as it is in force, and what could be chosen. */
export interface Access {
  /** What was asked for: in force from the next turn on, where it is not yet. */
  readonly requested: string;
  readonly effective: string;
  readonly choices: readonly { id: string; isAvailable: boolean; reason: string }[];
}

/** Who gave which reaction, by its name. */
export type Reactions = { readonly [name: string]: readonly string[] };

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

/** How much a turn has changed: files, and lines of them. */
export interface Counts {
  readonly files: number;
  readonly added: number;
  readonly removed: number;
}

/** A cell of a notebook that differs; `source` and `outputs` are unified diffs, empty where they do not. */
export interface ChangedCell {
  readonly change: 'added' | 'modified' | 'removed';
  /** Its place in the notebook, from 0; in the one before where it was removed. */
  readonly index: number;
  readonly cellType: string;
  readonly source: string;
  readonly outputs: string;
  readonly metadata: boolean;
}

export interface ChangedFile {
  readonly path: string;
  /** Its name before, where it was renamed. */
  readonly oldPath: string | null;
  readonly change: 'added' | 'modified' | 'deleted' | 'renamed';
  readonly added: number;
  readonly removed: number;
  readonly binary: boolean;
  readonly large: boolean;
  /** Others may have changed it too. */
  readonly shared: boolean;
  /** Nobody saw it: the agent says so. */
  readonly reported: boolean;
  /** The unified diff, whose end may be left out. */
  readonly diff: string;
  readonly truncated: boolean;
  /** What has become of it since the turn. */
  readonly state: 'applied' | 'reverted' | 'changed';
  /** Of a notebook, the cells that differ. */
  readonly cells: readonly ChangedCell[] | null;
}

export interface TurnDiff {
  readonly files: readonly ChangedFile[];
  /** Why not all changes are known. */
  readonly incomplete: string | null;
}

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

export interface AgentInfo {
  readonly id: string;
  readonly name: string;
  readonly description: string;
  readonly available: boolean;
  readonly version: string;
  readonly hint: string;
  readonly isDefault: boolean;
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

// --- small readers -------------------------------------------------------------------------------------------------

const NOTHING: Json = {};

export function object(value: unknown): Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Json)
    : NOTHING;
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

export function text(value: unknown): string {
  return typeof value === 'string' ? value : typeof value === 'number' ? String(value) : '';
}

function number(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

function present(value: unknown): boolean {
  return value !== undefined && value !== null;
}

// --- the pieces ----------------------------------------------------------------------------------------------------

function user(value: unknown): User {
  if (typeof value === 'string') {
    return { username: value, name: value };
  }
  const raw = object(value);
  const username = text(raw.username);
  return { username, name: text(raw.display_name) || text(raw.name) || username };
}

function problem(value: unknown): Problem | null {
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

function command(value: unknown): Command {
  const raw = object(value);
  return { name: text(raw.name), description: text(raw.description) };
}

function usage(value: unknown): Usage | null {
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
function block(value: unknown): ToolContent {
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

function toolCall(value: unknown): ToolCall {
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

function permission(value: unknown): PermissionRequest {
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

function reactions(value: unknown): Reactions {
  return Object.fromEntries(
    Object.entries(object(value)).map(([name, people]) => [name, list(people).map(text)])
  );
}

function counts(value: unknown): Counts | null {
  const raw = object(value);
  const files = number(raw.files);
  return files === null
    ? null
    : { files, added: number(raw.added) ?? 0, removed: number(raw.removed) ?? 0 };
}

function changedCell(value: unknown): ChangedCell {
  const raw = object(value);
  return {
    change: raw.change === 'added' || raw.change === 'removed' ? raw.change : 'modified',
    index: number(raw.index) ?? 0,
    cellType: text(raw.cell_type),
    source: text(raw.source),
    outputs: text(raw.outputs),
    metadata: raw.metadata === true
  };
}

function changedFile(value: unknown): ChangedFile {
  const raw = object(value);
  const { change, state } = raw;
  return {
    path: text(raw.path),
    oldPath: text(raw.old_path) || null,
    change:
      change === 'added' || change === 'deleted' || change === 'renamed' ? change : 'modified',
    added: number(raw.added) ?? 0,
    removed: number(raw.removed) ?? 0,
    binary: raw.binary === true,
    large: raw.large === true,
    shared: raw.shared === true,
    reported: raw.reported === true,
    diff: text(raw.diff),
    truncated: raw.truncated === true,
    // one that we do not know cannot be undone
    state: state === 'applied' || state === 'reverted' ? state : 'changed',
    cells: Array.isArray(raw.cells) ? raw.cells.map(changedCell) : null
  };
}

/** What a turn has changed. */
export function turnDiff(value: unknown): TurnDiff {
  const raw = object(value);
  return { files: list(raw.files).map(changedFile), incomplete: text(raw.incomplete) || null };
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

function changes(value: unknown): Partial<Summary> {
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
  return { ...EMPTY, ...changes(value) };
}

export function summaries(value: unknown): Summary[] {
  return list(value).map(summary);
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

/** Prompts that this browser kept because they may not have arrived. */
export function kept(value: unknown): { id: string; text: string; error: string | null }[] {
  return list(value)
    .map(item => {
      const raw = object(item);
      const error = typeof raw.error === 'string' ? raw.error : null;
      return { id: text(raw.id), text: text(raw.text), error };
    })
    .filter(item => item.id && item.text);
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

function flag(value: unknown): boolean | null {
  return typeof value === 'boolean' ? value : null;
}

function payload(kind: string, data: Json, time: number, turnId: string | null): Payload {
  switch (kind) {
    case 'session_created':
    case 'session_closed':
      return { kind };
    case 'session_changed':
      return { kind, changes: changes(data) };
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
