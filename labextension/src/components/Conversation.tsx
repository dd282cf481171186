import * as React from 'react';
import type { TurnDiff } from '../wire/changes';
import type { Message } from '../wire/messages';
import type { ChatState, Entry } from '../model';
import { answerId, answerOf, Turn } from '../turn';
import type { Unsent } from '../outbox';
import { ChangesSoFar, NotKept } from './Changes';
import { EditForm } from './EditForm';
import { ReadingContext, useEnvironment } from './environment';
import { Markdown } from './Markdown';
import { ReactionButtons } from './Reactions';
import { Activity, NoticeCard, TurnFoot } from './TurnView';

type Diff = TurnDiff | Error | undefined;

/** What a person said. Their own messages can be edited and deleted. */
function Said(props: {
  id: string;
  text: string;
  name: string;
  isMine: boolean;
  edited?: boolean;
}): JSX.Element {
  const { trans, chat } = useEnvironment();
  const [isEditing, setEditing] = React.useState(false);
  return (
    <div className="jp-acp-message" data-role="user" data-message-id={props.id}>
      <div className="jp-acp-sender">
        {props.name}
        {props.edited && <span className="jp-acp-dim"> {trans.__('(edited)')}</span>}
        {props.isMine && !isEditing && (
          <span className="jp-acp-message-actions">
            <button className="jp-acp-link" onClick={() => setEditing(true)}>
              {trans.__('Edit')}
            </button>
            <button className="jp-acp-link" onClick={() => void chat.deleteMessage(props.id)}>
              {trans.__('Delete')}
            </button>
          </span>
        )}
      </div>
      {isEditing ? (
        <EditForm
          text={props.text}
          label={trans.__('The message')}
          canBeEmpty
          save={text => chat.editMessage(props.id, text)}
          onClose={() => setEditing(false)}
        />
      ) : (
        <div className="jp-acp-said">{props.text}</div>
      )}
    </div>
  );
}

function MessageView(props: {
  message: Message;
  name: string;
  isMine: boolean;
  isLast: boolean;
  diff: Diff;
}) {
  const { trans, chat } = useEnvironment();
  const { message, name, isMine, isLast, diff } = props;
  const activity = message.turn === null ? undefined : chat.details.activity.get(message.turn);
  const [isOpen, setOpen] = React.useState(false);
  // also where what was shown has been discarded meanwhile
  const wanted = isOpen && activity === undefined ? message.turn : null;
  React.useEffect(() => {
    if (wanted !== null) {
      void chat.loadActivity(wanted);
    }
  }, [chat, wanted]);
  if (message.deleted) {
    return <div className="jp-acp-message jp-acp-dim">{trans.__('Deleted')}</div>;
  }
  if (message.role === 'user') {
    const { id, text, edited } = message;
    return <Said id={id} text={text} name={name} isMine={isMine} edited={edited} />;
  }
  return (
    <div
      className="jp-acp-message"
      data-role="agent"
      data-message-id={message.id}
      data-turn-id={message.turn ?? ''}
    >
      <div className="jp-acp-sender">{name}</div>
      {isOpen && activity ? <Activity turn={activity} /> : <Markdown text={message.text} />}
      {isOpen && activity === null && <NotKept />}
      {message.turn !== null && (
        <TurnFoot
          turn={message.turn}
          changes={message.changes}
          diff={diff}
          stopReason={message.stopReason}
          elapsedMs={message.elapsedMs}
          error=""
          isLast={isLast}
        >
          <button className="jp-acp-link jp-acp-show-activity" onClick={() => setOpen(!isOpen)}>
            {isOpen ? trans.__('Hide activity') : trans.__('Show activity')}
          </button>
          <ReactionButtons id={message.id} reactions={message.reactions} />
        </TurnFoot>
      )}
    </div>
  );
}

/** A turn that ended while we looked: its answer; the rest on request. */
function EndedTurn(props: {
  turn: Turn;
  isDiscarded: boolean;
  isMine: boolean;
  isLast: boolean;
  agent: string;
  diff: Diff;
}) {
  const { trans } = useEnvironment();
  const { turn, isDiscarded, isMine, isLast, agent, diff } = props;
  const [isOpen, setOpen] = React.useState(false);
  const answer = React.useMemo(() => answerOf(turn), [turn]);
  const hasMore = isDiscarded || answer.items.length < turn.items.length;
  return (
    <div className="jp-acp-turn" data-turn-id={turn.id} data-state={turn.state}>
      {turn.text && (
        <Said id={turn.messageId} text={turn.text} name={turn.user.name} isMine={isMine} />
      )}
      <div className="jp-acp-message" data-role="agent">
        <div className="jp-acp-sender">{agent}</div>
        <Activity turn={isOpen ? turn : answer} />
        {isOpen && isDiscarded && <NotKept />}
        <TurnFoot
          turn={turn.id}
          changes={turn.changes}
          diff={diff}
          stopReason={turn.stopReason}
          elapsedMs={turn.elapsedMs}
          error={turn.error?.message ?? ''}
          isLast={isLast}
        >
          {hasMore && (
            <button className="jp-acp-link jp-acp-show-activity" onClick={() => setOpen(!isOpen)}>
              {isOpen ? trans.__('Hide activity') : trans.__('Show activity')}
            </button>
          )}
          <ReactionButtons id={answerId(turn)} reactions={turn.reactions} />
        </TurnFoot>
      </div>
    </div>
  );
}

function EntryView(props: {
  entry: Entry;
  users: ReadonlyMap<string, string>;
  username: string;
  agent: string;
  isLast: boolean;
  /** Redraws a message whose activity has arrived. */
  activity: Turn | null | undefined;
  diff: Diff;
}) {
  const { entry, users, username, agent, isLast, diff } = props;
  switch (entry.type) {
    case 'notice':
      return <NoticeCard item={entry.item} />;
    case 'turn': {
      const { turn, isDiscarded } = entry;
      const isMine = turn.user.username === username;
      return (
        <EndedTurn
          turn={turn}
          isDiscarded={isDiscarded}
          isMine={isMine}
          isLast={isLast}
          agent={agent}
          diff={diff}
        />
      );
    }
    default: {
      const { message } = entry;
      const name = users.get(message.sender) ?? (message.role === 'agent' ? agent : message.sender);
      const isMine = message.sender === username;
      return (
        <MessageView message={message} name={name} isMine={isMine} isLast={isLast} diff={diff} />
      );
    }
  }
}

const MemoEntry = React.memo(EntryView);

/** The turn that an entry is of, or is the answer to. */
function turnOf(entry: Entry): string | null {
  return entry.type === 'turn'
    ? entry.turn.id
    : entry.type === 'message'
      ? entry.message.turn
      : null;
}

/** Is the end in sight? */
function isNear(node: HTMLElement): boolean {
  return node.scrollHeight - node.scrollTop - node.clientHeight < 40;
}

/** The history, the running turn, and what could not be sent. Follows the end only while it is at the end. */
export function Conversation(props: {
  state: ChatState;
  unsent: readonly Unsent[];
  agent: string;
  children?: React.ReactNode;
}): JSX.Element {
  const { trans, chat } = useEnvironment();
  const { state, unsent, agent } = props;
  const scroller = React.useRef<HTMLDivElement>(null);
  const isAtEnd = React.useRef(true);
  const [isAway, setAway] = React.useState(false);
  const before = React.useRef({ first: '', height: 0 });
  const first = state.entries[0]?.id ?? '';

  const toEnd = () => {
    const node = scroller.current;
    if (node) {
      node.scrollTop = node.scrollHeight;
    }
  };
  // Markdown is drawn after us, so it is the size of the content that says when there is more to see
  const content = React.useRef<HTMLDivElement>(null);
  // where we, or shorter content, have put it: a scroll event that finds it there is nobody's wish
  const put = React.useRef(0);
  const follow = () => {
    const node = scroller.current!;
    isAtEnd.current ||= isNear(node);
    if (isAtEnd.current) {
      toEnd();
    }
    put.current = node.scrollTop;
    setAway(!isAtEnd.current);
  };
  const isReading = React.useCallback(() => {
    isAtEnd.current = false;
  }, []);
  React.useLayoutEffect(() => {
    const observer = new ResizeObserver(follow);
    observer.observe(content.current!);
    observer.observe(scroller.current!);
    return () => observer.disconnect();
  }, []);
  React.useLayoutEffect(() => {
    const node = scroller.current!;
    // an older page went on top: what was read stays where it was
    if (before.current.first && before.current.first !== first && !isAtEnd.current) {
      node.scrollTop += node.scrollHeight - before.current.height;
    }
    before.current = { first, height: node.scrollHeight };
    follow();
  });
  const onScroll = () => {
    const node = scroller.current!;
    if (isNear(node)) {
      isAtEnd.current = true;
    } else if (node.scrollTop !== put.current) {
      isAtEnd.current = false;
    }
    setAway(!isAtEnd.current);
  };
  const { active } = state;
  return (
    <div className="jp-acp-conversation-frame">
      <div ref={scroller} className="jp-acp-conversation" onScroll={onScroll} tabIndex={-1}>
        <div ref={content} className="jp-acp-conversation-content">
          {state.hasMore && (
            <button
              className="jp-acp-button jp-acp-load-more"
              disabled={chat.isLoadingMore}
              onClick={() => {
                isAtEnd.current = false;
                void chat.loadMore();
              }}
            >
              {chat.isLoadingMore ? trans.__('Loading…') : trans.__('Load 50 earlier messages')}
            </button>
          )}
          {state.entries.length === 0 && !active && unsent.length === 0 && (
            <div className="jp-acp-empty">{trans.__('Ask %1 something.', agent)}</div>
          )}
          <ReadingContext.Provider value={isReading}>
            {state.entries.map((entry, index) => (
              <MemoEntry
                key={entry.id}
                entry={entry}
                users={state.users}
                username={chat.username}
                agent={agent}
                isLast={!active && index === state.entries.length - 1}
                activity={
                  entry.type === 'message'
                    ? chat.details.activity.get(turnOf(entry) ?? '')
                    : undefined
                }
                diff={chat.details.diffs.get(turnOf(entry) ?? '')}
              />
            ))}
            {active && (
              <div
                className="jp-acp-turn jp-acp-active"
                data-turn-id={active.id}
                data-state={active.state}
              >
                <Said
                  id={active.messageId}
                  text={active.text}
                  name={active.user.name}
                  isMine={false}
                />
                <div className="jp-acp-message" data-role="agent">
                  <div className="jp-acp-sender">{agent}</div>
                  <Activity turn={active} />
                  {active.items.some(item => item.type === 'tool') && (
                    <ChangesSoFar
                      key={active.id}
                      turn={active.id}
                      diff={chat.details.diffs.get(active.id)}
                    />
                  )}
                </div>
              </div>
            )}
          </ReadingContext.Provider>
          {props.children}
          {unsent.map(one => (
            <div
              key={one.id}
              className="jp-acp-message jp-acp-unsent"
              data-role="user"
              data-state={one.error === null ? 'sending' : 'failed'}
            >
              <div className="jp-acp-said">{one.text}</div>
              {one.error === null ? (
                <span className="jp-acp-dim">{trans.__('Sending…')}</span>
              ) : (
                <div className="jp-acp-turn-foot">
                  <span className="jp-acp-error-text">
                    {one.error ? trans.__('Not sent: %1', one.error) : trans.__('Not sent')}
                  </span>
                  <button className="jp-acp-link" onClick={() => void chat.send(one.text, one.id)}>
                    {trans.__('Send again')}
                  </button>
                  <button className="jp-acp-link" onClick={() => chat.forget(one.id)}>
                    {trans.__('Discard')}
                  </button>
                </div>
              )}
            </div>
          ))}
        </div>
      </div>
      {isAway && (
        <button
          className="jp-acp-to-end"
          title={trans.__('To the end')}
          onClick={() => {
            isAtEnd.current = true;
            toEnd();
          }}
        >
          ↓
        </button>
      )}
    </div>
  );
}
