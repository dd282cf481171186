/**
 * One open chat: its state folded from the log, its connection, and the commands that a person gives. Draws nothing.
 *
 * Commands go down by REST; what becomes of them is seen in the log and nowhere else.
 */

import { Signal } from '@lumino/signaling';
import { UUID } from '@lumino/coreutils';
import type { ServerConnection } from '@jupyterlab/services';
import { Connection, ConnectionState } from './connection';
import { EditorTexts, Texts } from './editortexts';
import { isPassing, messageOf, RequestError } from './errors';
import { applyAll, ChatState, firstAfter, initial, isBroken, prepend } from './model';
import { Outbox, Unsent } from './outbox';
import { LOCAL } from './projects';
import * as rest from './restapi';
import { TurnDetails } from './turndetails';
import type { AgentInfo } from './wire/agents';
import type { AcpEvent } from './wire/events';
import type { Json } from './wire/json';
import type { ProjectInfo } from './wire/projects';
import type { Summary } from './wire/session';

/** Milliseconds until a chat that could not be opened is tried again. */
const OPEN_AGAIN = 5000;

/** Kinds of tool calls that change files. */
const CHANGING = new Set(['edit', 'delete', 'move']);

export interface ChatOptions {
  readonly settings: ServerConnection.ISettings;
  /** The id of the project that it is in. */
  readonly project: string;
  /** The path of the .chat file, relative to the project. */
  readonly path: string;
  /** What editors show and have not saved, by path, where the person offers it to agents. */
  readonly unsaved?: () => Texts;
}

export class Chat {
  constructor(private readonly options: ChatOptions) {
    const { settings, project, unsaved } = options;
    this._place = { settings, project, signal: this._abort.signal };
    this._texts = unsaved
      ? new EditorTexts({
          unsaved,
          isHeard: () => this._session().placement === 'host-delegated',
          offer: texts => rest.offerTexts(this._place, this._session().id, this._client, texts)
        })
      : null;
    window.addEventListener('online', () => this._connection?.retry(), {
      signal: this._abort.signal
    });
  }

  /** Something that is drawn has changed; at most once per animation frame. */
  readonly changed = new Signal<this, void>(this);

  /** The project's files may have changed. */
  readonly filesChanged = new Signal<this, void>(this);

  /** An agent waits for a person. */
  readonly asked = new Signal<this, string>(this);

  state: ChatState | null = null;
  failure: string | null = null;
  /** The last command that was refused. */
  refusal: string | null = null;
  connection: ConnectionState = 'connecting';
  /** Why the server refuses to let us follow, where it says so: another one may have the chat now. */
  refusedBy: string | null = null;
  agents: readonly AgentInfo[] = [];
  /** The turn that Stop was pressed for, until the log confirms. */
  stopping: string | null = null;
  isLoadingMore = false;
  /** Answers on their way, by id of the request. */
  answering: ReadonlySet<string> = new Set();
  readonly details = new TurnDetails({
    log: turn => rest.getActivity(this._place, this._session().id, turn),
    diff: turn => rest.getDiff(this._place, this._session().id, turn),
    changed: () => this._notify()
  });
  /** The project, once it is known. */
  project: ProjectInfo | null = null;
  /** Whether the person has other projects beside the one that Jupyter serves. */
  isOneOfSeveral = false;
  /** The project is not there, for this person, or not any more. */
  isGone = false;
  /** How much this browser's clock is ahead of the server's, in seconds. */
  clockSkew = 0;
  username = '';

  get projectId(): string {
    return this.options.project;
  }

  /** Whether the person may do more than look. */
  get isCollaborator(): boolean {
    return this.project !== null && this.project.role !== 'viewer';
  }

  get path(): string {
    return this._path ?? this.options.path;
  }

  /** An agent's path as one of the project: agents name files absolutely. */
  inProject(path: string): string {
    const cwd = this.state?.session.cwd ?? '';
    return cwd && path.startsWith(`${cwd}/`) ? path.slice(cwd.length + 1) : path;
  }

  get unsent(): readonly Unsent[] {
    return this._outbox?.unsent ?? [];
  }

  /** What is typed and not sent. A chat that is not open yet has none. */
  get draft(): string {
    return this._outbox?.draft ?? '';
  }

  set draft(text: string) {
    if (this._outbox) {
      this._outbox.draft = text;
    }
  }

  /** Open the session and follow it. */
  async start(): Promise<void> {
    this.failure = null;
    this._notify();
    await this._open();
  }

  private async _open(): Promise<void> {
    clearTimeout(this._again);
    try {
      await this._lookAround();
      const session = this.isCollaborator
        ? await rest.openSession(this._place, this.path)
        : await this._find();
      await this._load(session);
      this._follow(firstAfter(session));
      this.failure = null;
      this.agents = await rest.listAgents(this._place);
    } catch (error) {
      if (!this._abort.signal.aborted) {
        this.failure = messageOf(error);
        // a person who is a member again need not know of it to be let in
        if ((isPassing(error) || this.isGone) && !this.state) {
          this._again = setTimeout(() => void this._open(), OPEN_AGAIN);
        }
      }
    }
    this._notify();
  }

  /** Who the person is, and what they may do here. */
  private async _lookAround(): Promise<void> {
    const root = await rest.getRoot(this.options.settings);
    this.username = root.username;
    this.isOneOfSeveral = root.projects.some(one => one.id !== LOCAL);
    const project = root.projects.find(one => one.id === this.options.project);
    this.isGone = project === undefined;
    if (!project) {
      throw new RequestError(404, '', UNKNOWN_PROJECT);
    }
    this.project = project;
  }

  /** Who may only read opens no session: it is one that is open already. */
  private async _find(): Promise<Summary> {
    const listed = await rest.listSessions(this._place);
    const found = listed.find(session => session.path === this.path);
    if (!found) {
      throw new RequestError(404, `nobody has opened ${this.path} yet`, 'unknown_session');
    }
    return rest.getSession(this._place, found.id);
  }

  /** The file was renamed; the session goes with it. */
  moved(path: string): void {
    this._path = path;
  }

  dispose(): void {
    this._abort.abort();
    clearTimeout(this._again);
    this._texts?.dispose();
    cancelAnimationFrame(this._frame);
    Signal.clearData(this);
  }

  get isDisposed(): boolean {
    return this._abort.signal.aborted;
  }

  // --- commands ----------------------------------------------------------------------------------------------------

  async send(text: string, id: string = UUID.uuid4()): Promise<void> {
    const session = this._session();
    this._outbox?.add(id, text);
    this._notify();
    await this._texts?.offer();
    try {
      await rest.submitTurn(this._place, session.id, id, text);
      this._outbox?.remove(new Set([id]));
    } catch (error) {
      this._outbox?.failed(id, messageOf(error));
    }
    this._notify();
  }

  /** Keep files inside the project; `@path` for each, as the agent sees it, for the text of a prompt. */
  async upload(files: readonly File[]): Promise<string> {
    const session = this._session();
    const mentions: string[] = [];
    for (const file of files) {
      const uri = await rest.upload(this._place, session.id, file);
      const path = decodeURIComponent(new URL(uri).pathname);
      mentions.push(`@${this.inProject(path)}`);
    }
    return mentions.join(' ');
  }

  forget(id: string): void {
    this._outbox?.remove(new Set([id]));
    this._notify();
  }

  async stop(): Promise<void> {
    const turn = this.state?.active;
    if (!turn) {
      return;
    }
    this.stopping = turn.id;
    await this._command(
      session => rest.interrupt(this._place, session.id, turn.id),
      () => {
        // nothing was stopped, so nothing says that it is
        this.stopping = null;
      }
    );
  }

  edit(turn: string, text: string): Promise<boolean> {
    return this._command(session => rest.editTurn(this._place, session.id, turn, text));
  }

  withdraw(turn: string): Promise<boolean> {
    return this._command(session => rest.withdrawTurn(this._place, session.id, turn));
  }

  sendNow(turn: string): Promise<boolean> {
    return this._command(session => rest.sendNow(this._place, session.id, turn));
  }

  async answer(request: string, option: string, content?: Json): Promise<void> {
    if (this.answering.has(request)) {
      return;
    }
    this.answering = new Set([...this.answering, request]);
    await this._command(session => rest.answer(this._place, session.id, request, option, content));
    this.answering = new Set([...this.answering].filter(id => id !== request));
    this._notify();
  }

  setOption(option: string, value: string | boolean): Promise<boolean> {
    return this._command(session => rest.configure(this._place, session.id, { [option]: value }));
  }

  setAccess(access: string): Promise<boolean> {
    return this._command(session => rest.setAccess(this._place, session.id, access));
  }

  react(message: string, name: string, on: boolean): Promise<boolean> {
    return this._command(session => rest.react(this._place, session.id, message, name, on));
  }

  restartAgent(): Promise<boolean> {
    return this._command(session => rest.restartAgent(this._place, session.id));
  }

  startOver(): Promise<boolean> {
    return this._command(session => rest.startOver(this._place, session.id));
  }

  deleteMessage(id: string): Promise<boolean> {
    return this._command(session => rest.deleteMessage(this._place, session.id, id));
  }

  editMessage(id: string, text: string): Promise<boolean> {
    return this._command(session => rest.editMessage(this._place, session.id, id, text));
  }

  /** Talk to another agent. Only before the first message: afterwards the conversation is that agent's. */
  async chooseAgent(agent: string): Promise<void> {
    await this._command(async session => {
      let next: Summary;
      try {
        next = await rest.openSession(this._place, this.path, agent);
      } catch (error) {
        if (!(error instanceof RequestError && error.status === 409)) {
          throw error;
        }
        await rest.closeSession(this._place, session.id);
        next = await rest.openSession(this._place, this.path, agent);
      }
      this._connection?.close();
      await this._load(next);
      this._follow(firstAfter(next));
    });
  }

  async loadMore(): Promise<void> {
    const first = this.state?.entries[0];
    if (!this.state || this.isLoadingMore) {
      return;
    }
    const before = !first ? undefined : first.type === 'turn' ? first.turn.messageId : first.id;
    this.isLoadingMore = true;
    await this._command(async session => {
      const page = await rest.getMessages(this._place, session.id, before);
      if (this.state) {
        this.state = prepend(this.state, page);
      }
    });
    this.isLoadingMore = false;
    this._notify();
  }

  loadActivity(turn: string): Promise<boolean> {
    return this._command(() => this.details.loadActivity(turn));
  }

  /** Bring files back to what they were before a turn. */
  async revert(turn: string, paths: readonly string[]): Promise<void> {
    const done = await this._command(session => rest.revert(this._place, session.id, turn, paths));
    // what stands in the way is seen in what the files are now; of what was done the log tells
    if (!done) {
      await this.details.reloadDiff(turn);
    }
  }

  discardActivity(): Promise<boolean> {
    return this._command(session => rest.discardActivity(this._place, session.id));
  }

  exportUrl(): string {
    return rest.exportUrl(this._place, this._session().id);
  }

  dismissRefusal(): void {
    this.refusal = null;
    this._notify();
  }

  retryConnection(): void {
    this._connection?.retry();
  }

  // --- inside --------------------------------------------------------------------------------------------------------

  private _session(): Summary {
    if (!this.state) {
      throw new Error('the chat is not open yet');
    }
    return this.state.session;
  }

  private async _load(session: Summary): Promise<void> {
    const page = await rest.getMessages(this._place, session.id);
    this.state = initial(session, page);
    this.details.drop();
    this.stopping = null;
    this._outbox = new Outbox(
      window.localStorage,
      session.id,
      id =>
        session.turns.some(turn => turn.id === id) || page.messages.some(known => known.turn === id)
    );
    this._notify();
  }

  private _follow(after: number): void {
    const id = this._session().id;
    this._connection = new Connection({
      after,
      signal: this._abort.signal,
      open: from => rest.subscribe(this._place, id, from, this._client),
      check: () => this._check(id),
      onEvents: events => this._fold(events),
      onState: state => {
        this.connection = state;
        this._texts?.forgotten();
        if (state === 'connected') {
          this.refusedBy = null;
          this.isGone = false;
          if (this._isRefusalPassing) {
            this.refusal = null;
          }
        }
        this._notify();
      }
    });
  }

  /** Before a reconnection: is the log that we follow still the server's, and what may the person do? */
  private async _check(id: string): Promise<number | null> {
    let session: Summary;
    try {
      await this._lookAround();
      session = await rest.getSession(this._place, id);
    } catch (error) {
      this.refusedBy = error instanceof RequestError ? error.message : null;
      this.isGone = error instanceof RequestError && error.reason === UNKNOWN_PROJECT;
      throw error;
    }
    if (!isBroken(session, this._connection?.lastSeq ?? 0)) {
      return null;
    }
    await this._load(session);
    return firstAfter(session);
  }

  private _fold(events: readonly AcpEvent[]): void {
    if (!this.state) {
      return;
    }
    const before = this.state;
    this.state = applyAll(before, events);
    if (this.state.session.firstSeq !== before.session.firstSeq) {
      this.details.drop();
    }
    const reverted = events.map(event =>
      event.kind === 'file_changed' && event.change === 'reverted' ? (event.turn ?? '') : ''
    );
    for (const turn of new Set(reverted)) {
      void this.details.reloadDiff(turn);
    }
    if (events.some(mayChangeFiles)) {
      this.filesChanged.emit();
    }
    this._texts?.follow(this.state.active !== null);
    // it arrived, whatever became of the answer to us
    this._outbox?.remove(
      new Set(events.map(event => (event.kind === 'turn_queued' ? event.id : '')))
    );
    const newest = events[events.length - 1];
    if (newest && newest.seq > before.session.lastSeq) {
      this.clockSkew = Date.now() / 1000 - newest.time;
    }
    if (this.stopping !== null && this.state.active?.id !== this.stopping) {
      this.stopping = null;
    }
    const known = new Set(before.permissions.map(request => request.id));
    const fresh = this.state.permissions.find(request => !known.has(request.id));
    if (fresh) {
      this.asked.emit(fresh.elicitation?.message || fresh.toolCall.title);
    }
    this._notify();
  }

  private async _command(
    run: (session: Summary) => Promise<void>,
    undo?: () => void
  ): Promise<boolean> {
    this.refusal = null;
    this._notify();
    try {
      await run(this._session());
      return true;
    } catch (error) {
      if (!this._abort.signal.aborted) {
        undo?.();
        this.refusal = messageOf(error);
        this._isRefusalPassing = isPassing(error);
      }
      return false;
    } finally {
      this._notify();
    }
  }

  private _notify(): void {
    if (!this._frame && !this._abort.signal.aborted) {
      this._frame = requestAnimationFrame(() => {
        this._frame = 0;
        this.changed.emit();
      });
    }
  }

  private readonly _abort = new AbortController();
  private readonly _place: rest.Place;
  private readonly _texts: EditorTexts | null;
  private _connection: Connection | null = null;
  private _outbox: Outbox | null = null;
  private _frame = 0;
  private _path: string | null = null;
  private _again: ReturnType<typeof setTimeout> | undefined;
  private _isRefusalPassing = false;
  private readonly _client = UUID.uuid4();
}

/** A file was written, or a turn, or a step of it, has ended that may have written some. */
function mayChangeFiles(event: AcpEvent): boolean {
  switch (event.kind) {
    case 'file_changed':
      return true;
    case 'turn_ended':
      return event.changes !== null;
    case 'tool_call':
      return event.call.status === 'completed' && CHANGING.has(event.call.kind);
    default:
      return false;
  }
}

/** What the server says of a project that is none of the person's. */
const UNKNOWN_PROJECT = 'unknown_project';
