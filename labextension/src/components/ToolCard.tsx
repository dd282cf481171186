import * as React from 'react';
import type { Location, ToolCall, ToolContent } from '../wire/toolcalls';
import type { Terminal } from '../turn';
import { DiffView } from './DiffView';
import { useEnvironment } from './environment';
import { FileLink } from './FileLink';
import { Icon } from './Icon';
import { Markdown } from './Markdown';
import { Revealed } from './Revealed';
import { TerminalCard } from './TerminalCard';

/** Nothing but a line: such calls may be folded together. */
export function isSmall(call: ToolCall): boolean {
  return call.content.every(item => item.type !== 'diff' && item.type !== 'terminal');
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length > 0;
}

/** JSON as a person reads it. */
export function pretty(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value, null, 2);
}

function Content(props: {
  content: ToolContent;
  terminals: ReadonlyMap<string, Terminal>;
  isDelegated: boolean;
}) {
  const { content, terminals, isDelegated } = props;
  switch (content.type) {
    case 'text':
      return <Markdown text={content.text} />;
    case 'image':
      return <img src={`data:${content.mimeType};base64,${content.data}`} alt="" />;
    case 'diff':
      return <DiffView path={content.path} before={content.before} after={content.after} />;
    case 'terminal': {
      const terminal = terminals.get(content.terminalId);
      return terminal ? (
        <TerminalCard id={content.terminalId} terminal={terminal} isDelegated={isDelegated} />
      ) : null;
    }
    default:
      return <pre className="jp-acp-raw">{pretty(content.raw)}</pre>;
  }
}

export { Content as ContentView };

/** Where a tool call works, without the files whose changes are shown and name them. */
export function otherPlaces(call: ToolCall): readonly Location[] {
  const changed = new Set(call.content.map(item => (item.type === 'diff' ? item.path : null)));
  return call.locations.filter(place => !changed.has(place.path));
}

/** Text that says again what the call's terminals show: some agents end a command with its whole output. */
function isRepeated(content: ToolContent, terminals: readonly (Terminal | undefined)[]): boolean {
  return (
    content.type === 'text' &&
    terminals.some(terminal => terminal?.output && content.text.startsWith(terminal.output))
  );
}

/**
 * One tool call. What changes files or prints is open, the rest opens on a click; so does one that waits, because
 * the question about it shows the same.
 */
export const ToolCard = React.memo(function ToolCard(props: {
  call: ToolCall;
  terminals: ReadonlyMap<string, Terminal>;
}) {
  const { trans } = useEnvironment();
  const { call, terminals } = props;
  const [open, setOpen] = React.useState<boolean | null>(null);
  const isOpen = open ?? (!isSmall(call) && call.status !== 'pending');
  const states: { [status: string]: string } = {
    pending: trans.__('waiting'),
    in_progress: trans.__('running'),
    completed: trans.__('done'),
    failed: trans.__('failed'),
    cancelled: trans.__('stopped')
  };
  const routes: { [route: string]: [word: string, title: string] } = {
    delegated: [trans.__('by Jupyter'), trans.__('Jupyter did this in the project, for the agent')],
    mcp: [trans.__('MCP'), trans.__('The agent used a tool of an MCP server')]
  };
  const [route, routeTitle] = routes[call.route] ?? [];
  // a terminal that the agent reports under the call's own id, without naming it in the content
  const own = terminals.get(call.id);
  const isNamed = call.content.some(
    item => item.type === 'terminal' && item.terminalId === call.id
  );
  const shown = call.content.map(item =>
    item.type === 'terminal' ? terminals.get(item.terminalId) : undefined
  );
  return (
    <div
      className="jp-acp-tool"
      data-state={call.status}
      data-kind={call.kind}
      data-route={call.route}
      data-tool-call-id={call.id}
    >
      <div className="jp-acp-tool-head">
        <button
          className="jp-acp-tool-toggle"
          aria-expanded={isOpen}
          onClick={() => setOpen(!isOpen)}
        >
          <Icon name={call.kind} />
          <span className="jp-acp-tool-title">
            <Revealed text={call.title} />
          </span>
        </button>
        {(isOpen ? otherPlaces(call) : call.locations).map((place, index) => (
          <FileLink key={index} path={place.path} line={place.line} />
        ))}
        {route && (
          <span className="jp-acp-tool-route" title={routeTitle}>
            {route}
          </span>
        )}
        <span className="jp-acp-tool-state">{states[call.status] ?? call.status}</span>
      </div>
      {isOpen && (
        <div className="jp-acp-tool-body">
          {isObject(call.rawInput) && (
            <details>
              <summary>{trans.__('Arguments')}</summary>
              <pre className="jp-acp-raw">
                <Revealed text={pretty(call.rawInput)} />
              </pre>
            </details>
          )}
          {call.content.map((item, index) =>
            isRepeated(item, shown) ? null : (
              <Content
                key={index}
                content={item}
                terminals={terminals}
                isDelegated={call.route === 'delegated'}
              />
            )
          )}
          {own && !isNamed && <TerminalCard id={call.id} terminal={own} isDelegated={false} />}
          {call.content.length === 0 &&
            !own &&
            (isObject(call.rawOutput) || typeof call.rawOutput === 'string') && (
              <pre className="jp-acp-raw">{pretty(call.rawOutput).slice(0, 20000)}</pre>
            )}
        </div>
      )}
    </div>
  );
});

/** Consecutive small calls, one line. */
export function ToolGroup(props: {
  calls: readonly ToolCall[];
  terminals: ReadonlyMap<string, Terminal>;
}): JSX.Element {
  const { trans } = useEnvironment();
  const { calls, terminals } = props;
  const [isOpen, setOpen] = React.useState(false);
  const last = calls[calls.length - 1];
  return (
    <div className="jp-acp-tool-group">
      <button
        className="jp-acp-tool-toggle"
        aria-expanded={isOpen}
        onClick={() => setOpen(!isOpen)}
      >
        <span className="jp-acp-icon" aria-hidden="true">
          {isOpen ? '▾' : '▸'}
        </span>
        <span className="jp-acp-tool-title">
          {trans.__('%1 steps', calls.length)}
          {!isOpen && last && <span className="jp-acp-dim"> · {last.title}</span>}
        </span>
      </button>
      {isOpen && calls.map(call => <ToolCard key={call.id} call={call} terminals={terminals} />)}
    </div>
  );
}
