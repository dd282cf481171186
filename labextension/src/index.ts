/** Where the panel meets JupyterLab: file type, factory, commands, launcher, side panel. Nothing else. */

import { ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification, WidgetTracker } from '@jupyterlab/apputils';
import { PageConfig } from '@jupyterlab/coreutils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import type { DocumentWidget } from '@jupyterlab/docregistry';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { UUID } from '@lumino/coreutils';
import { OpenDocument, OpenDocuments } from './documents';
import {
  ChatFactory,
  ChatListPanel,
  ChatModelFactory,
  ChatPanel,
  ProjectChat,
  Services
} from './panel';
import { LOCAL, newChatName } from './projects';
import { ChatTabs } from './tabs';
import { TerminalTabs } from './terminals';
import {
  chatIcon,
  CommandIDs,
  FACTORY,
  FILE_TYPE,
  JUPYTERLAB_CHAT,
  OPENS_CHATS,
  PLUGIN_ID
} from './tokens';

const plugin: JupyterFrontEndPlugin<void> = {
  id: PLUGIN_ID,
  description: 'Chats with coding agents',
  autoStart: true,
  requires: [IDocumentManager, IRenderMimeRegistry],
  optional: [
    ITranslator,
    ILauncher,
    ICommandPalette,
    IDefaultFileBrowser,
    ILayoutRestorer,
    ISettingRegistry
  ],
  activate
};

function activate(
  app: JupyterFrontEnd,
  documents: IDocumentManager,
  rendermime: IRenderMimeRegistry,
  translator: ITranslator | null,
  launcher: ILauncher | null,
  palette: ICommandPalette | null,
  browser: IDefaultFileBrowser | null,
  restorer: ILayoutRestorer | null,
  registry: ISettingRegistry | null
): void {
  const { commands, docRegistry, serviceManager, shell } = app;
  const trans = (translator ?? nullTranslator).load('jupyter_acp');
  let notifies = true;
  let offers = false;
  void registry?.load(PLUGIN_ID).then(settings => {
    const read = () => {
      notifies = settings.composite.notify !== false;
      offers = settings.composite.offerUnsavedText === true;
    };
    settings.changed.connect(read);
    read();
  });

  const createChat = async (path: string) => {
    const file = await documents.newUntitled({ path, type: 'file', ext: '.chat' });
    return documents.openOrReveal(file.path, FACTORY);
  };
  const services: Services = {
    settings: serviceManager.serverSettings,
    contents: serviceManager.contents,
    rendermime,
    trans,
    openFile: (path, line) =>
      void openFile(documents, path, line, trans.__('%1 is not in the project (yet).', path)),
    tabs: new TerminalTabs(serviceManager.terminals, commands),
    openChat: (project, path) => void commands.execute(CommandIDs.open, { project, path }),
    newChat: project =>
      project === LOCAL
        ? void createChat(browser?.model.path ?? '')
        : void commands.execute(CommandIDs.open, { project, path: newChatName(new Date()) }),
    activate: id => shell.activateById(id),
    notifies: () => notifies,
    documents: new OpenDocuments({
      open: () => openDocuments(app, documents),
      modified: async path =>
        (await serviceManager.contents.get(path, { content: false })).last_modified,
      tell: path =>
        Notification.warning(
          trans.__('%1 was changed on disk; what you have not saved is still in its editor.', path),
          { autoClose: 10_000 }
        )
    }),
    offers: () => offers
  };

  // jupyterlab-chat has the file type where it is installed, and stays what a double click opens
  const isAlone =
    !JUPYTERLAB_CHAT.some(id => app.hasPlugin(id)) && !docRegistry.getFileType(FILE_TYPE);
  const isPreferred = PageConfig.getOption(OPENS_CHATS) === 'true';
  if (isAlone) {
    docRegistry.addFileType({
      name: FILE_TYPE,
      displayName: trans.__('Chat'),
      mimeTypes: ['text/json', 'application/json'],
      extensions: ['.chat'],
      fileFormat: 'text',
      contentType: 'file',
      icon: chatIcon
    });
  }
  docRegistry.addModelFactory(new ChatModelFactory());
  const factory = new ChatFactory(
    {
      name: FACTORY,
      label: trans.__('ACP chat'),
      modelName: 'acp-chat',
      fileTypes: [FILE_TYPE],
      defaultFor: isAlone || isPreferred ? [FILE_TYPE] : []
    },
    services
  );
  if (isPreferred && !isAlone) {
    // of two defaults the later one wins
    void app.started.then(() => docRegistry.addWidgetFactory(factory));
  } else {
    docRegistry.addWidgetFactory(factory);
  }

  const tracker = new WidgetTracker<DocumentWidget<ChatPanel>>({ namespace: 'jupyter-acp' });
  factory.widgetCreated.connect((_, widget) => {
    widget.context.pathChanged.connect(() => void tracker.save(widget));
    void tracker.add(widget);
  });
  // a chat of another project is no document of Jupyter's
  const others = new WidgetTracker<ProjectChat>({ namespace: 'jupyter-acp-projects' });
  const chatTabs = new ChatTabs(window.localStorage);
  const openOther = (project: string, path: string, tab: string = UUID.uuid4()): ProjectChat => {
    const isIt = ({ chat }: ProjectChat) => chat.projectId === project && chat.path === path;
    const widget = others.find(isIt) ?? new ProjectChat(project, path, tab, services);
    if (!widget.isAttached) {
      const keep = () => chatTabs.set(tab, { project, path: widget.chat.path });
      keep();
      widget.moved.connect(keep);
      widget.disposed.connect(() => chatTabs.set(tab, null));
      shell.add(widget, 'main');
      void others.add(widget);
    }
    shell.activateById(widget.id);
    return widget;
  };

  const list = new ChatListPanel(services);
  shell.add(list, 'left', { rank: 600 });
  if (restorer) {
    restorer.add(list, list.id);
    void restorer.restore(tracker, {
      command: 'docmanager:open',
      args: widget => ({ path: widget.context.path, factory: FACTORY }),
      name: widget => widget.context.path
    });
    void restorer.restore(others, {
      command: CommandIDs.open,
      args: ({ tab }) => ({ tab }),
      name: ({ tab }) => tab
    });
  }

  commands.addCommand(CommandIDs.create, {
    label: args => (args.isPalette ? trans.__('New ACP chat') : trans.__('ACP chat')),
    caption: trans.__('Talk to a coding agent'),
    icon: args => (args.isPalette ? undefined : chatIcon),
    execute: async args => {
      const project = await list.projectOfNewChats();
      return project === LOCAL
        ? createChat(typeof args.cwd === 'string' ? args.cwd : (browser?.model.path ?? ''))
        : openOther(project, newChatName(new Date()));
    }
  });
  commands.addCommand(CommandIDs.open, {
    label: trans.__('Open the ACP chat of a path'),
    isVisible: () => false,
    execute: args => {
      if (typeof args.tab === 'string') {
        const kept = chatTabs.get(args.tab);
        return kept ? openOther(kept.project, kept.path, args.tab) : undefined;
      }
      const [project, path] = [String(args.project ?? LOCAL), String(args.path)];
      return project === LOCAL ? documents.openOrReveal(path, FACTORY) : openOther(project, path);
    }
  });
  launcher?.add({ command: CommandIDs.create, category: trans.__('Other'), rank: 1 });
  palette?.addItem({
    command: CommandIDs.create,
    category: trans.__('ACP'),
    args: { isPalette: true }
  });
}

/** Files of the server's own folder that are open, chats aside. */
function openDocuments(app: JupyterFrontEnd, documents: IDocumentManager): Set<OpenDocument> {
  const found = new Set<OpenDocument>();
  for (const widget of app.shell.widgets('main')) {
    const context = documents.contextForWidget(widget);
    const isChat = (widget as DocumentWidget).content instanceof ChatPanel;
    if (context && !isChat && documents.services.contents.driveName(context.path) === '') {
      found.add(context);
    }
  }
  return found;
}

/** What a text editor's widget offers; other widgets open without a line. */
interface HasEditor {
  readonly editor?: {
    setCursorPosition(position: { line: number; column: number }): void;
    revealPosition(position: { line: number; column: number }): void;
  };
}

async function openFile(
  documents: IDocumentManager,
  path: string,
  line: number | null,
  missing: string
): Promise<void> {
  try {
    await documents.services.contents.get(path, { content: false });
  } catch {
    // an agent links to files that it has yet to write, and to some that it has deleted
    Notification.info(missing, { autoClose: 4000 });
    return;
  }
  const widget = documents.openOrReveal(path);
  if (!widget || line === null) {
    return;
  }
  void Promise.all([widget.context.ready, widget.revealed]).then(() => {
    const { editor } = (widget as DocumentWidget).content as HasEditor;
    const position = { line: Math.max(0, line - 1), column: 0 };
    editor?.setCursorPosition(position);
    editor?.revealPosition(position);
  });
}

export default plugin;
