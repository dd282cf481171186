/** Names that are shared: plugin, commands, factory, and the icon. */

import { LabIcon } from '@jupyterlab/ui-components';

export const PLUGIN_ID = 'jupyter-acp:plugin';
export const FACTORY = 'ACP chat';
export const FILE_TYPE = 'chat';

/** The page's option that makes the panel what a double click opens, also beside jupyterlab-chat: the demo sets it. */
export const OPENS_CHATS = 'acpOpensChats';

export namespace CommandIDs {
  export const create = 'jupyter-acp:create-chat';
  export const open = 'jupyter-acp:open-chat';
}

export const chatIcon = new LabIcon({
  name: 'jupyter-acp:chat',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="#616161">
    <path d="M4 3h16a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2h-6l-5 4v-4H4a2 2 0 0 1-2-2V5a2 2 0 0 1 2-2zm0 2v10h7v2l2.500-2H20V5z"/>
    <path d="M7.300 7.100 6.200 8.300 8 10l-1.800 1.700 1.100 1.200L10.400 10zM11.500 11.500h5V13h-5z"/>
  </g>
</svg>`
});

/** Plugins of jupyterlab-chat, any of which means that it is there. */
export const JUPYTERLAB_CHAT = [
  'jupyterlab-chat-extension:factory',
  'jupyterlab-chat-extension:commands'
];
