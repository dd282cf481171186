/** The widgets: one chat in the main area, the list of chats at the side. They own the objects that they draw. */

import { Dialog, MainAreaWidget, Notification, showDialog } from '@jupyterlab/apputils';
import { PathExt } from '@jupyterlab/coreutils';
import {
  ABCWidgetFactory,
  DocumentRegistry,
  DocumentWidget,
  TextModelFactory
} from '@jupyterlab/docregistry';
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import type { Contents, ServerConnection } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';
import * as React from 'react';
import { Chat } from './chat';
import { ChatList } from './components/ChatList';
import { ChatView } from './components/ChatView';
import type { Environment } from './components/environment';
import { forAgents } from './components/Markdown';
import { ProjectPicker } from './components/ProjectPicker';
import type { OpenDocuments } from './documents';
import { LOCAL, Projects } from './projects';
import {
  getProject,
  getProjectLog,
  listProjects,
  listSessions,
  startProject,
  stopProject
} from './restapi';
import type { TerminalTabs } from './terminals';
import { chatIcon } from './tokens';

/** What the widgets need of JupyterLab. */
export interface Services {
  readonly settings: ServerConnection.ISettings;
  readonly contents: Contents.IManager;
  readonly rendermime: IRenderMimeRegistry;
  readonly trans: TranslationBundle;
  readonly openFile: (path: string, line: number | null) => void;
  readonly tabs: TerminalTabs;
  readonly openChat: (project: string, path: string) => void;
  readonly newChat: (project: string) => void;
  readonly activate: (id: string) => void;
  readonly notifies: () => boolean;
  readonly documents: OpenDocuments;
  /** Whether agents are offered what is not saved. */
  readonly offers: () => boolean;
}

/** A chat, drawn. */
export class ChatPanel extends ReactWidget {
  constructor(
    readonly chat: Chat,
    private readonly services: Services
  ) {
    super();
    this.addClass('jp-acp-root');
    const isServed = chat.projectId === LOCAL;
    this._environment = {
      chat,
      trans: services.trans,
      rendermime: forAgents(services.rendermime),
      // a file of the same name in Jupyter's own folder is another one
      openFile: isServed ? (path, line) => services.openFile(chat.inProject(path), line) : null,
      get tabs() {
        return chat.project?.kind === 'container' ? null : services.tabs;
      }
    };
    chat.asked.connect(this._onAsked, this);
    if (isServed) {
      chat.filesChanged.connect(() => void services.documents.reload());
    }
    chat.changed.connect(this._onChanged, this);
    void chat.start();
  }

  override render(): JSX.Element {
    return <ChatView environment={this._environment} />;
  }

  override dispose(): void {
    this.chat.dispose();
    super.dispose();
  }

  protected override onActivateRequest(message: Message): void {
    super.onActivateRequest(message);
    (this.node.querySelector<HTMLElement>('.jp-acp-input') ?? this.node).focus();
  }

  /** Somebody is waited for: a badge on the tab, and a notification where the chat is out of sight. */
  private _onAsked(_: Chat, what: string): void {
    const { trans, activate, notifies } = this.services;
    if (notifies() && (!this.isVisible || document.hidden)) {
      Notification.info(trans.__('An agent waits for you: %1', what.slice(0, 120)), {
        actions: [{ label: trans.__('Show'), callback: () => activate(this.parent?.id ?? this.id) }]
      });
    }
  }

  private _onChanged(): void {
    const title = (this.parent ?? this).title;
    const waits = (this.chat.state?.permissions.length ?? 0) > 0;
    const others = title.className.replace('jp-acp-waits', '').trim();
    title.className = waits ? `${others} jp-acp-waits`.trim() : others;
  }

  private readonly _environment: Environment;
}

/** A model without content: the conversation comes page by page from the session, never as the whole file. */
export class ChatModelFactory extends TextModelFactory {
  override get name(): string {
    return 'acp-chat';
  }

  override get fileFormat(): Contents.FileFormat {
    return null;
  }
}

export class ChatFactory extends ABCWidgetFactory<DocumentWidget<ChatPanel>> {
  constructor(
    options: DocumentRegistry.IWidgetFactoryOptions<DocumentWidget<ChatPanel>>,
    private readonly services: Services
  ) {
    super(options);
  }

  protected createNewWidget(context: DocumentRegistry.Context): DocumentWidget<ChatPanel> {
    const { settings, contents, documents, offers } = this.services;
    const unsaved = () => (offers() ? documents.unsaved() : {});
    const path = contents.localPath(context.path);
    const chat = new Chat({ settings, project: LOCAL, path, unsaved });
    const content = new ChatPanel(chat, this.services);
    context.pathChanged.connect((_, path) => chat.moved(contents.localPath(path)));
    const widget = new DocumentWidget({ content, context });
    widget.title.icon = chatIcon;
    widget.toolbar.hide();
    return widget;
  }
}

/** A chat whose file is not one of Jupyter's: a tab of its own, named by its project and the chat. `tab`: see tabs.ts. */
export class ProjectChat extends MainAreaWidget<ChatPanel> {
  constructor(
    project: string,
    path: string,
    readonly tab: string,
    services: Services
  ) {
    const chat = new Chat({ settings: services.settings, project, path });
    super({ content: new ChatPanel(chat, services) });
    this.toolbar.hide();
    this.title.icon = chatIcon;
    this.title.closable = true;
    this._trans = services.trans;
    this._name();
    chat.changed.connect(this._name, this);
  }

  get chat(): Chat {
    return this.content.chat;
  }

  /** The session's file has another path now. */
  readonly moved = new Signal<this, void>(this);

  private _name(): void {
    const { chat } = this;
    const session = chat.state?.session;
    if (session?.path && session.path !== chat.path) {
      chat.moved(session.path);
      this.moved.emit();
    }
    const project = chat.project?.name ?? chat.projectId;
    // the project first: a long name is cut at its end
    this.title.label = `${project} · ${session?.title || PathExt.basename(chat.path, '.chat')}`;
    this.title.caption = `${chat.path}\n${this._trans.__('Project: %1', project)}`;
  }

  private readonly _trans: TranslationBundle;
}

/** The chats of a project, and which project that is. Asks while it can be seen. */
export class ChatListPanel extends ReactWidget {
  constructor(private readonly services: Services) {
    super();
    const { trans, contents } = services;
    this.id = 'jupyter-acp-chats';
    this.addClass('jp-acp-side');
    this.title.icon = chatIcon;
    this.title.caption = trans.__('ACP chats');
    const { settings } = services;
    const { signal } = this._abort;
    const place = (project: string) => ({ settings, project, signal });
    this._projects = new Projects(
      {
        list: () => listProjects(settings, signal),
        get: project => getProject(place(project)),
        sessions: project => listSessions(place(project)),
        start: project => startProject(place(project)),
        stop: project => stopProject(place(project))
      },
      {
        get: () => window.localStorage.getItem(CHOSEN),
        set: project => window.localStorage.setItem(CHOSEN, project)
      },
      () => signal.aborted || this.update()
    );
    contents.fileChanged.connect(this._onFileChanged, this);
  }

  override render(): JSX.Element {
    const { trans, openChat, newChat } = this.services;
    const { projects, chosen, lost, sessions, failure, isSingle } = this._projects;
    const project = chosen?.id ?? LOCAL;
    return (
      <ChatList
        sessions={sessions}
        failure={failure}
        trans={trans}
        canCreate={chosen === null ? isSingle : chosen.role !== 'viewer'}
        onOpen={path => openChat(project, path)}
        onNew={() => newChat(project)}
      >
        {!isSingle && (
          <ProjectPicker
            projects={projects}
            chosen={chosen}
            lost={lost}
            trans={trans}
            onChoose={id => void this._projects.choose(id)}
            onStart={() => void this._act(() => this._projects.start())}
            onStop={() => void this._stop()}
            onLog={() => void this._showLog()}
          />
        )}
      </ChatList>
    );
  }

  /** Where a chat is made that is not asked for in a certain project: Jupyter's own folder, if that is one. */
  async projectOfNewChats(): Promise<string> {
    await this._projects.refresh();
    const { projects, chosen } = this._projects;
    return projects.some(project => project.id === LOCAL) ? LOCAL : (chosen?.id ?? LOCAL);
  }

  override dispose(): void {
    this._abort.abort();
    clearTimeout(this._timer);
    super.dispose();
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    void this._look();
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    clearTimeout(this._timer);
  }

  private _onFileChanged(): void {
    if (this.isVisible) {
      void this._look();
    }
  }

  private _look(): Promise<void> {
    return this._act(() => this._projects.refresh());
  }

  private async _act(action: () => Promise<void>): Promise<void> {
    await action();
    clearTimeout(this._timer);
    if (this.isVisible && !this._abort.signal.aborted) {
      this._timer = setTimeout(() => void this._look(), this._projects.interval);
    }
  }

  /** Stop the project; its running turns end, so that is asked for. */
  private async _stop(): Promise<void> {
    const { trans } = this.services;
    await this._projects.refresh();
    const { chosen, sessions } = this._projects;
    const running = sessions.filter(session => session.state !== 'idle').length;
    if (running > 0) {
      const { button } = await showDialog({
        title: trans.__('Stop %1', chosen?.name ?? ''),
        body: trans._n(
          'The agent of %1 chat is at work; its turn ends.',
          'The agents of %1 chats are at work; their turns end.',
          running
        ),
        buttons: [
          Dialog.cancelButton({ label: trans.__('Cancel') }),
          Dialog.warnButton({ label: trans.__('Stop') })
        ]
      });
      if (!button.accept) {
        return;
      }
    }
    await this._act(() => this._projects.stop());
  }

  private async _showLog(): Promise<void> {
    const { trans, settings } = this.services;
    const { chosen } = this._projects;
    if (chosen) {
      const place = { settings, project: chosen.id, signal: this._abort.signal };
      const text = await getProjectLog(place).catch((error: Error) => error.message);
      await showDialog({
        title: trans.__('Log of %1', chosen.name),
        body: <pre className="jp-acp-project-log">{text || trans.__('Nothing was written.')}</pre>,
        buttons: [Dialog.okButton({ label: trans.__('Close') })]
      });
    }
  }

  private readonly _abort = new AbortController();
  private readonly _projects: Projects;
  private _timer: ReturnType<typeof setTimeout> | undefined;
}

/** Where the browser keeps which project was chosen. */
const CHOSEN = 'jupyter-acp:project';
