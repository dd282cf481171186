import * as React from 'react';
import type { Usage } from '../wire/session';
import type { ChatState } from '../model';
import { duration } from '../visible';
import { useEnvironment } from './environment';

const SILENT_AFTER = 120;

/** The time in seconds, every second while it matters. */
function useNow(runs: boolean): number {
  const [now, setNow] = React.useState(() => Date.now() / 1000);
  React.useEffect(() => {
    if (!runs) {
      return;
    }
    setNow(Date.now() / 1000);
    const timer = setInterval(() => setNow(Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, [runs]);
  return now;
}

/** What the turn does and since when: `Running 2:14 · 0:04 ago`. */
export function Status({ state }: { state: ChatState }): JSX.Element {
  const { trans, chat } = useEnvironment();
  const { active } = state;
  const now = useNow(active !== null) - chat.clockSkew;
  if (!active) {
    const word =
      state.session.state === 'idle' ? trans.__('Idle') : trans.__('Starting the agent…');
    return (
      <span className="jp-acp-status" data-state="idle">
        {state.session.error ? trans.__('Needs you') : word}
      </span>
    );
  }
  const isStopping = active.state === 'cancelling' || chat.stopping === active.id;
  const elapsed = active.startedAt === null ? '0:00' : duration(now - active.startedAt);
  const silence = active.lastSign === null ? null : now - active.lastSign;
  let label: string;
  let name: string = active.state;
  if (isStopping) {
    label = trans.__('Stopping… %1', elapsed);
    name = 'cancelling';
  } else if (active.state === 'requires_action') {
    label = trans.__('Waiting for you · %1', elapsed);
  } else if (silence === null) {
    label = trans.__('Starting… %1', elapsed);
    name = 'starting';
  } else {
    label = trans.__('Running %1 · %2 ago', elapsed, duration(silence));
  }
  const isSilent = name === 'running' && silence !== null && silence > SILENT_AFTER;
  return (
    <span className="jp-acp-status" data-state={name} data-silent={isSilent}>
      {label}
    </span>
  );
}

/** The connection, which is another thing than the turn. Says nothing while all is well. */
export function ConnectionStatus(): JSX.Element | null {
  const { trans, chat } = useEnvironment();
  const { connection } = chat;
  return (
    <span className="jp-acp-connection" data-state={connection}>
      {connection === 'waiting' && (
        <>
          {!chat.isGone && (chat.refusedBy ?? trans.__('No connection'))}{' '}
          <button className="jp-acp-link" onClick={() => chat.retryConnection()}>
            {trans.__('Try now')}
          </button>
        </>
      )}
      {connection === 'connecting' && trans.__('Connecting…')}
    </span>
  );
}

/** How full the context window is. */
export const UsageRing = React.memo(function UsageRing({ usage }: { usage: Usage }) {
  const { trans } = useEnvironment();
  const left = usage.size > 0 ? (usage.size - usage.used) / usage.size : 1;
  const percent = Math.round(left * 100);
  const round = 2 * Math.PI * 6;
  const label =
    usage.size > 0
      ? trans.__('%1 of %2 tokens used, %3 % left', usage.used, usage.size, percent)
      : trans.__('%1 tokens used', usage.used);
  return (
    <span
      className="jp-acp-usage"
      data-low={left < 0.3}
      title={usage.cost ? `${label} · ${usage.cost}` : label}
      role="img"
      aria-label={label}
    >
      <svg width="16" height="16" viewBox="0 0 16 16">
        <circle cx="8" cy="8" r="6" className="jp-acp-ring-all" />
        <circle
          cx="8"
          cy="8"
          r="6"
          className="jp-acp-ring-used"
          strokeDasharray={`${round * (1 - left)} ${round}`}
        />
      </svg>
      {usage.size > 0 && <span>{`${percent} %`}</span>}
      {usage.cost && <span>{usage.cost}</span>}
    </span>
  );
});
