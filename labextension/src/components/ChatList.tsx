import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { Summary } from '../wire/session';

/** Every chat of a project, newest first; who waits for a person says so. Above it what says which project that is. */
export function ChatList(props: {
  sessions: readonly Summary[];
  failure: string | null;
  trans: TranslationBundle;
  canCreate: boolean;
  children?: React.ReactNode;
  onOpen: (path: string) => void;
  onNew: () => void;
}): JSX.Element {
  const { sessions, failure, trans, onOpen, onNew } = props;
  const states: { [state: string]: string } = {
    running: trans.__('running'),
    requires_action: trans.__('waits for you')
  };
  return (
    <div className="jp-acp-list">
      {props.children}
      <button className="jp-acp-button jp-acp-new-chat" disabled={!props.canCreate} onClick={onNew}>
        {trans.__('New chat')}
      </button>
      {failure !== null && (
        <div className="jp-acp-error" role="alert">
          {failure}
        </div>
      )}
      <ul>
        {sessions.map(session => (
          <li key={session.id}>
            <button
              className="jp-acp-list-item"
              data-session-id={session.id}
              data-state={session.state}
              title={session.path}
              onClick={() => onOpen(session.path)}
            >
              <span className="jp-acp-list-title">{session.title || session.path}</span>
              <span className="jp-acp-dim">
                {[session.path, session.agent].filter(Boolean).join(' · ')}
              </span>
              {states[session.state] && (
                <span className="jp-acp-status" data-state={session.state}>
                  {states[session.state]}
                </span>
              )}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
