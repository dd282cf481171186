import { Dialog, showDialog } from '@jupyterlab/apputils';
import * as React from 'react';
import type { Chat } from '../chat';
import type { ChatState } from '../model';
import { LOCAL } from '../projects';
import { Composer } from './Composer';
import { Conversation } from './Conversation';
import { Environment, EnvironmentContext, useEnvironment } from './environment';
import { optionForKey, PermissionCard } from './PermissionCard';
import { AccessPicker, AgentPicker, OptionPickers } from './Pickers';
import { Queue } from './Queue';
import { ConnectionStatus, Status, UsageRing } from './Status';

/** Copies the id of the session, exports, restarts the agent, discards what it did. */
function Menu({ state }: { state: ChatState }) {
  const { trans, chat } = useEnvironment();
  const { session } = state;
  const copy = (value: string) => void navigator.clipboard.writeText(value);
  const discard = async () => {
    const { button } = await showDialog({
      title: trans.__('Discard activity'),
      body: trans.__(
        'The thinking, tool calls and output of all turns of this chat that have ended are removed for good. The conversation stays.'
      ),
      buttons: [
        Dialog.cancelButton({ label: trans.__('Cancel') }),
        Dialog.warnButton({ label: trans.__('Discard') })
      ]
    });
    if (button.accept) {
      await chat.discardActivity();
    }
  };
  const root = React.useRef<HTMLDetailsElement>(null);
  React.useEffect(() => {
    const outside = (event: Event) => {
      if (root.current && !root.current.contains(event.target as Node)) {
        root.current.open = false;
      }
    };
    document.addEventListener('pointerdown', outside, true);
    return () => document.removeEventListener('pointerdown', outside, true);
  }, []);
  return (
    <details ref={root} className="jp-acp-menu">
      <summary title={trans.__('More')} aria-label={trans.__('More')}>
        ⋯
      </summary>
      <div className="jp-acp-popover" onClick={() => (root.current!.open = false)}>
        <button
          className="jp-acp-copy-id"
          data-session-id={session.id}
          onClick={() => copy(session.id)}
        >
          {trans.__('Copy session id')} <small>{session.id}</small>
        </button>
        {session.agentSessionId && (
          <button onClick={() => copy(session.agentSessionId)}>
            {trans.__('Copy the agent’s session id')} <small>{session.agentSessionId}</small>
          </button>
        )}
        <a href={chat.exportUrl()} download>
          {trans.__('Export as Markdown')}
        </a>
        {chat.isCollaborator && (
          <>
            <button className="jp-acp-restart-agent" onClick={() => void chat.restartAgent()}>
              {trans.__('Restart the agent')}
            </button>
            <button className="jp-acp-discard-activity" onClick={() => void discard()}>
              {trans.__('Discard activity')}
            </button>
          </>
        )}
      </div>
    </details>
  );
}

/** Why nothing of the project can be had. */
function goneText(trans: Environment['trans'], chat: Chat): string {
  return chat.project === null && chat.projectId === LOCAL
    ? trans.__('The files of this Jupyter server are no project of yours.')
    : trans.__(
        'The project %1 is gone, or you are not a member of it any more.',
        chat.project?.name ?? chat.projectId
      );
}

/** What stands in the way, and what can be done. */
function Problems({ state }: { state: ChatState }) {
  const { trans, chat } = useEnvironment();
  const { error, readOnly } = state.session;
  return (
    <>
      {chat.isGone && (
        <div className="jp-acp-banner jp-acp-project-gone" data-severity="error" role="alert">
          {goneText(trans, chat)}
        </div>
      )}
      {readOnly && (
        <div className="jp-acp-banner" data-severity="warning">
          {trans.__('This chat can only be read: %1', readOnly)}
        </div>
      )}
      {error && (
        <div
          className="jp-acp-banner"
          data-severity="error"
          data-reason={error.reason}
          role="alert"
        >
          <span>{error.message}</span>
          {error.reason === 'session_lost' && chat.isCollaborator && (
            <button
              className="jp-acp-button jp-acp-start-over"
              onClick={() => void chat.startOver()}
            >
              {trans.__('Start over with the conversation so far')}
            </button>
          )}
          {chat.isCollaborator && (
            <button className="jp-acp-button" onClick={() => void chat.restartAgent()}>
              {trans.__('Restart the agent')}
            </button>
          )}
        </div>
      )}
      {chat.refusal !== null && (
        <div className="jp-acp-banner jp-acp-refusal" data-severity="error" role="alert">
          <span>{chat.refusal}</span>
          <button className="jp-acp-link" onClick={() => chat.dismissRefusal()}>
            {trans.__('Dismiss')}
          </button>
        </div>
      )}
    </>
  );
}

/** For those who listen: what happens, in pieces that can be followed. */
function announcement(state: ChatState, trans: Environment['trans']): string {
  if (state.permissions.length > 0) {
    return trans.__('The agent waits for your answer');
  }
  return state.active ? trans.__('The agent works') : trans.__('The agent is done');
}

/** A person's earlier prompts, oldest first. */
function prompts(state: ChatState): string[] {
  const earlier = state.entries.flatMap(entry =>
    entry.type === 'turn'
      ? [entry.turn.text]
      : entry.type === 'message' && entry.message.role === 'user' && !entry.message.deleted
        ? [entry.message.text]
        : []
  );
  return [...earlier, ...(state.active ? [state.active.text] : [])].filter(Boolean);
}

function Opened({ state }: { state: ChatState }) {
  const { trans, chat } = useEnvironment();
  const { session, active } = state;
  const agent = chat.agents.find(one => one.id === session.agent)?.name ?? session.agent;
  const disabled = chat.isGone
    ? goneText(trans, chat)
    : !chat.isCollaborator
      ? trans.__('You can read this project')
      : session.readOnly
        ? trans.__('This chat can only be read')
        : state.closed
          ? trans.__('This session was closed')
          : null;
  const onKeyDown = (event: React.KeyboardEvent) => {
    const isTyping = (event.target as HTMLElement).closest('input, textarea, select');
    const request = state.permissions[0];
    if (
      isTyping ||
      !request ||
      !chat.isCollaborator ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      event.repeat
    ) {
      return;
    }
    // a form has to be filled in first
    const option = optionForKey(request.options, event.key);
    if (option && request.elicitation?.mode !== 'form') {
      event.preventDefault();
      void chat.answer(request.id, option.id);
    }
  };
  return (
    <div
      className="jp-acp-chat"
      data-session-id={session.id}
      data-state={active?.state ?? 'idle'}
      data-last-seq={state.lastSeq}
      data-connection={chat.connection}
      onKeyDown={onKeyDown}
      tabIndex={-1}
    >
      <header className="jp-acp-head">
        {chat.isOneOfSeveral && chat.project && (
          <span className="jp-acp-project" data-project-id={chat.project.id}>
            <span className="jp-acp-dim">{trans.__('Project')}</span> {chat.project.name}
          </span>
        )}
        <AgentPicker
          agents={chat.agents}
          agent={session.agent}
          isFixed={
            disabled !== null ||
            state.entries.length > 0 ||
            active !== null ||
            state.queue.length > 0
          }
        />
        <OptionPickers options={session.options} disabled={disabled} />
        {session.access.effective && <AccessPicker access={session.access} disabled={disabled} />}
        <span className="jp-acp-spacer" />
        {session.usage && <UsageRing usage={session.usage} />}
        <ConnectionStatus />
        <Status state={state} />
        <Menu state={state} />
      </header>
      <Problems state={state} />
      <Conversation state={state} unsent={chat.unsent} agent={agent}>
        {state.permissions.map(request => (
          <PermissionCard key={request.id} request={request} />
        ))}
      </Conversation>
      <Queue queue={state.queue} />
      <Composer
        key={session.id}
        isRunning={active !== null}
        isStopping={
          active !== null && (active.state === 'cancelling' || chat.stopping === active.id)
        }
        disabled={disabled}
        commands={session.commands}
        history={() => prompts(state)}
      />
      <div className="jp-acp-announcement" aria-live="polite">
        {announcement(state, trans)}
      </div>
    </div>
  );
}

/** One chat, whole. */
export function ChatView({ environment }: { environment: Environment }): JSX.Element {
  const { chat, trans } = environment;
  const [, redraw] = React.useReducer((count: number) => count + 1, 0);
  React.useEffect(() => {
    chat.changed.connect(redraw);
    redraw();
    return () => {
      chat.changed.disconnect(redraw);
    };
  }, [chat]);
  return (
    <EnvironmentContext.Provider value={environment}>
      {chat.state ? (
        <Opened state={chat.state} />
      ) : chat.failure !== null ? (
        <div className="jp-acp-failure" role="alert">
          <p>{chat.isGone ? goneText(trans, chat) : chat.failure}</p>
          <button className="jp-acp-button" onClick={() => void chat.start()}>
            {trans.__('Try again')}
          </button>
        </div>
      ) : (
        <div className="jp-acp-empty">{trans.__('Opening the chat…')}</div>
      )}
    </EnvironmentContext.Provider>
  );
}
