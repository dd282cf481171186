import * as React from 'react';
import type { Terminal } from '../turn';
import { terminalText } from '../visible';
import { useEnvironment } from './environment';

const SHORT = 4000;

/** Whether a command can be opened in a tab now. */
function useCanOpen(id: string, mayBe: boolean): boolean {
  const { tabs } = useEnvironment();
  const [can, setCan] = React.useState(false);
  React.useEffect(() => {
    if (!mayBe || tabs === null) {
      return;
    }
    let isCurrent = true;
    void tabs.canOpen(id).then(found => {
      if (isCurrent) {
        setCan(found);
      }
    });
    return () => {
      isCurrent = false;
    };
  }, [id, mayBe, tabs]);
  return can && mayBe;
}

/** A command's output with the theme's colours, and how it ended. */
export const TerminalCard = React.memo(function TerminalCard(props: {
  id: string;
  terminal: Terminal;
  /** Whether it runs at our side, for an agent that delegates. */
  isDelegated: boolean;
}) {
  const { trans, rendermime, tabs } = useEnvironment();
  const { id, terminal } = props;
  const canOpen = useCanOpen(id, props.isDelegated && !terminal.ended);
  const [showsAll, showAll] = React.useState(false);
  const host = React.useRef<HTMLDivElement>(null);
  const isShort = showsAll || terminal.output.length <= SHORT;
  const output = isShort ? terminal.output : terminal.output.slice(-SHORT);
  React.useLayoutEffect(() => {
    let isCurrent = true;
    const mimeType = 'application/vnd.jupyter.stdout';
    const renderer = rendermime.createRenderer(mimeType);
    const model = rendermime.createModel({ data: { [mimeType]: terminalText(output) } });
    void renderer.renderModel(model).then(() => {
      if (isCurrent) {
        host.current?.replaceChildren(renderer.node);
      }
    });
    return () => {
      isCurrent = false;
      renderer.dispose();
    };
  }, [output, rendermime]);
  const state = !terminal.ended
    ? 'running'
    : terminal.exitCode === 0 && !terminal.signal
      ? 'completed'
      : 'failed';
  return (
    <div className="jp-acp-terminal" data-state={state} data-terminal-id={id}>
      {terminal.truncated && (
        <div className="jp-acp-truncated">{trans.__('… earlier output was dropped')}</div>
      )}
      {!isShort && (
        <button className="jp-acp-link" onClick={() => showAll(true)}>
          {trans.__('Show all %1 characters', terminal.output.length)}
        </button>
      )}
      <div ref={host} className="jp-acp-terminal-output" />
      <div className="jp-acp-exit">
        {!terminal.ended
          ? trans.__('running…')
          : terminal.signal
            ? trans.__('ended by %1', terminal.signal)
            : terminal.exitCode === null
              ? trans.__('ended')
              : trans.__('exit status %1', terminal.exitCode)}
        {canOpen && (
          <button className="jp-acp-link" onClick={() => void tabs?.open(id)}>
            {trans.__('Open in terminal')}
          </button>
        )}
      </div>
    </div>
  );
});
