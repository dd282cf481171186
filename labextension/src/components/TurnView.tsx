import * as React from 'react';
import type { Counts, TurnDiff } from '../wire/changes';
import type { PlanEntry } from '../wire/events';
import type { ToolCall } from '../wire/toolcalls';
import type { Item, Turn } from '../turn';
import { duration } from '../visible';
import { ChangesLink, ChangesView } from './Changes';
import { useEnvironment } from './environment';
import { FileLink } from './FileLink';
import { Icon } from './Icon';
import { StreamedText } from './StreamedText';
import { ContentView, isSmall, pretty, ToolCard, ToolGroup } from './ToolCard';

function ThoughtCard({ item }: { item: Extract<Item, { type: 'thought' }> }) {
  const { trans } = useEnvironment();
  const [isOpen, setOpen] = React.useState(false);
  return (
    <div className="jp-acp-thought" data-state={item.done ? 'done' : 'running'}>
      <button
        className="jp-acp-tool-toggle"
        aria-expanded={isOpen}
        onClick={() => setOpen(!isOpen)}
      >
        <Icon name="think" />
        {item.done ? trans.__('Thought') : trans.__('Thinking…')}
      </button>
      {isOpen && (
        <div className="jp-acp-thought-text">
          <StreamedText streamed={item.streamed} done={item.done} />
        </div>
      )}
    </div>
  );
}

const PlanCard = React.memo(function PlanCard({ entries }: { entries: readonly PlanEntry[] }) {
  const { trans } = useEnvironment();
  const marks: { [status: string]: string } = { completed: '✓', in_progress: '▸' };
  const done = entries.filter(entry => entry.status === 'completed').length;
  return (
    <div className="jp-acp-plan">
      <div className="jp-acp-card-title">
        {trans.__('Plan')} <span className="jp-acp-dim">{`${done}/${entries.length}`}</span>
      </div>
      <ol>
        {entries.map((entry, index) => (
          <li key={index} data-state={entry.status} data-priority={entry.priority}>
            <span className="jp-acp-icon" aria-hidden="true">
              {marks[entry.status] ?? '○'}
            </span>
            {entry.content}
          </li>
        ))}
      </ol>
    </div>
  );
});

export function NoticeCard({ item }: { item: Extract<Item, { type: 'notice' }> }): JSX.Element {
  const { trans } = useEnvironment();
  const isExit = item.severity === 'agent_exited';
  const title = !isExit
    ? item.title
    : item.title
      ? trans.__('The agent’s process ended (%1)', item.title)
      : trans.__('The agent’s process ended');
  return (
    <div className="jp-acp-notice" data-severity={isExit ? 'warning' : item.severity}>
      <div className="jp-acp-card-title">{title}</div>
      {isExit && item.description ? (
        <details>
          <summary>{trans.__('What it wrote last')}</summary>
          <pre className="jp-acp-raw">{item.description}</pre>
        </details>
      ) : (
        item.description
      )}
    </div>
  );
}

function ItemView({ item, turn }: { item: Item; turn: Turn }): JSX.Element | null {
  const { trans } = useEnvironment();
  switch (item.type) {
    case 'text':
      return (
        <div className="jp-acp-text">
          <StreamedText streamed={item.streamed} done={item.done} />
        </div>
      );
    case 'thought':
      return <ThoughtCard item={item} />;
    case 'tool':
      return <ToolCard call={item.call} terminals={turn.terminals} />;
    case 'plan':
      return <PlanCard entries={item.entries} />;
    case 'content':
      return <ContentView content={item.content} terminals={turn.terminals} isDelegated={false} />;
    case 'file':
      return (
        <div className="jp-acp-file-changed">
          {trans.__('Changed')} <FileLink path={item.path} line={null} />
        </div>
      );
    case 'notice':
      return <NoticeCard item={item} />;
    default:
      return (
        <details className="jp-acp-unknown">
          <summary>{trans.__('An update of a kind that this version does not know')}</summary>
          <pre className="jp-acp-raw">{pretty(item.update)}</pre>
        </details>
      );
  }
}

const MemoItem = React.memo(
  ItemView,
  // a turn's other items are no reason to draw this one, terminals are
  (a, b) => a.item === b.item && (a.item.type !== 'tool' || a.turn.terminals === b.turn.terminals)
);

/** Items in order; two or more small tool calls in a row become one line. */
function grouped(
  items: readonly Item[]
): (Item | { type: 'group'; id: string; calls: ToolCall[] })[] {
  const result: (Item | { type: 'group'; id: string; calls: ToolCall[] })[] = [];
  for (const item of items) {
    const last = result[result.length - 1];
    const isQuiet = item.type === 'tool' && isSmall(item.call) && item.call.status === 'completed';
    if (isQuiet && last?.type === 'group') {
      last.calls.push(item.call);
    } else if (
      isQuiet &&
      last?.type === 'tool' &&
      isSmall(last.call) &&
      last.call.status === 'completed'
    ) {
      const calls = [last.call, item.call];
      result[result.length - 1] = { type: 'group', id: `group-${last.id}`, calls };
    } else {
      result.push(item);
    }
  }
  return result;
}

const DoneItems = React.memo(
  function DoneItems({ items, turn }: { items: readonly Item[]; turn: Turn }) {
    return (
      <>
        {grouped(items).map(item =>
          item.type === 'group' ? (
            <ToolGroup key={item.id} calls={item.calls} terminals={turn.terminals} />
          ) : (
            <MemoItem key={item.id} item={item} turn={turn} />
          )
        )}
      </>
    );
  },
  (a, b) => a.items === b.items && a.turn.terminals === b.turn.terminals
);

/** All that happened in a turn, in order. */
export function Activity({ turn }: { turn: Turn }): JSX.Element {
  return (
    <div className="jp-acp-activity">
      <DoneItems items={turn.items} turn={turn} />
      {turn.open && <MemoItem key={turn.open.id} item={turn.open} turn={turn} />}
    </div>
  );
}

/** How a turn ended, in a line, and what it has changed. */
export function TurnFoot(props: {
  turn: string;
  changes: Counts | null;
  diff: TurnDiff | Error | undefined;
  stopReason: string;
  elapsedMs: number | null;
  error: string;
  isLast: boolean;
  children?: React.ReactNode;
}): JSX.Element {
  const { trans, chat } = useEnvironment();
  const { turn, changes, diff, stopReason, elapsedMs, error, isLast } = props;
  const [showsChanges, showChanges] = React.useState(false);
  const isStopped = stopReason === 'cancelled' || stopReason === 'interrupted';
  const reasons: { [reason: string]: string } = {
    cancelled: trans.__('Stopped'),
    interrupted: trans.__('Interrupted'),
    error: trans.__('Failed'),
    refusal: trans.__('The agent refused'),
    max_tokens: trans.__('Ended at the limit of tokens'),
    max_turn_requests: trans.__('Ended at the limit of requests')
  };
  const time = elapsedMs === null ? '' : duration(elapsedMs / 1000);
  return (
    <>
      {error && (
        <div className="jp-acp-error" role="alert">
          {error}
        </div>
      )}
      <div className="jp-acp-turn-foot" data-stop-reason={stopReason}>
        <span className="jp-acp-worked">
          {reasons[stopReason]
            ? time
              ? trans.__('%1 after %2', reasons[stopReason], time)
              : reasons[stopReason]
            : time && trans.__('Worked for %1', time)}
        </span>
        {changes && (
          <ChangesLink
            counts={changes}
            isOpen={showsChanges}
            onToggle={() => showChanges(!showsChanges)}
          />
        )}
        {props.children}
        {isLast && isStopped && (
          <button
            className="jp-acp-link jp-acp-continue"
            onClick={() => void chat.send(trans.__('Continue'))}
          >
            {trans.__('Continue')}
          </button>
        )}
      </div>
      {showsChanges && <ChangesView turn={turn} diff={diff} />}
    </>
  );
}
