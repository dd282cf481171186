import { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'jupyter-acp:plugin',
  description: 'Chats with coding agents',
  autoStart: true,
  activate: (_app: JupyterFrontEnd) => undefined
};

export default plugin;
