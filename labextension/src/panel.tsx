/** The widgets: one chat in the main area, the list of chats at the side. They own the objects that they draw. */

import { Notification } from '@jupyterlab/apputils';
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
import * as React from 'react';
import { Chat } from './chat';
import { ChatList } from './components/ChatList';
import { ChatView } from './components/ChatView';
import type { Environment } from './components/environment';
import { forAgents } from './components/Markdown';
import type { OpenDocuments } from './documents';
import type { Summary } from './events';
import { getRoot, listSessions } from './restapi';
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
  readonly openChat: (path: string) => void;
  readonly newChat: () => void;
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
    this._environment = {
      chat,
      trans: services.trans,
      rendermime: forAgents(services.rendermime),
      openFile: (path, line) => services.openFile(inProject(path, chat), line),
      tabs: services.tabs
    };
    chat.asked.connect(this._onAsked, this);
    chat.filesChanged.connect(() => void services.documents.reload());
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

/** An agent's path as one of the project: agents name files absolutely. */
function inProject(path: string, chat: Chat): string {
  const cwd = chat.state?.session.cwd ?? '';
  return cwd && path.startsWith(`${cwd}/`) ? path.slice(cwd.length + 1) : path;
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
    const chat = new Chat({ settings, path: contents.localPath(context.path), unsaved });
    const content = new ChatPanel(chat, this.services);
    context.pathChanged.connect((_, path) => chat.moved(contents.localPath(path)));
    const widget = new DocumentWidget({ content, context });
    widget.title.icon = chatIcon;
    widget.toolbar.hide();
    return widget;
  }
}

const LIST_INTERVAL = 5000;

/** The chats of the project. Asks while it can be seen. */
export class ChatListPanel extends ReactWidget {
  constructor(private readonly services: Services) {
    super();
    const { trans, contents } = services;
    this.id = 'jupyter-acp-chats';
    this.addClass('jp-acp-side');
    this.title.icon = chatIcon;
    this.title.caption = trans.__('ACP chats');
    contents.fileChanged.connect(this._onFileChanged, this);
  }

  override render(): JSX.Element {
    const { trans, openChat, newChat } = this.services;
    return (
      <ChatList
        sessions={this._sessions}
        failure={this._failure}
        trans={trans}
        onOpen={openChat}
        onNew={newChat}
      />
    );
  }

  override dispose(): void {
    this._abort.abort();
    clearInterval(this._timer);
    super.dispose();
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    clearInterval(this._timer);
    this._timer = setInterval(() => void this._refresh(), LIST_INTERVAL);
    void this._refresh();
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    clearInterval(this._timer);
  }

  private _onFileChanged(): void {
    if (this.isVisible) {
      void this._refresh();
    }
  }

  private async _refresh(): Promise<void> {
    const { settings } = this.services;
    try {
      this._project ??= (await getRoot(settings)).projects[0]?.id ?? 'local';
      const place = { settings, project: this._project, signal: this._abort.signal };
      this._sessions = await listSessions(place);
      this._failure = null;
    } catch (error) {
      this._failure = error instanceof Error ? error.message : String(error);
    }
    if (!this._abort.signal.aborted) {
      this.update();
    }
  }

  private readonly _abort = new AbortController();
  private _sessions: readonly Summary[] = [];
  private _failure: string | null = null;
  private _project: string | null = null;
  private _timer: ReturnType<typeof setInterval> | undefined;
}
