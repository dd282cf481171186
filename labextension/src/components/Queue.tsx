import * as React from 'react';
import type { TurnInfo } from '../wire/session';
import { useEnvironment } from './environment';

function Queued({ turn }: { turn: TurnInfo }) {
  const { trans, chat } = useEnvironment();
  const [draft, setDraft] = React.useState<string | null>(null);
  if (draft !== null) {
    return (
      <li className="jp-acp-queued" data-turn-id={turn.id} data-state="editing">
        <form
          className="jp-acp-edit"
          onSubmit={event => {
            event.preventDefault();
            void chat.edit(turn.id, draft).then(done => done && setDraft(null));
          }}
        >
          <textarea
            value={draft}
            aria-label={trans.__('The queued message')}
            onChange={event => setDraft(event.target.value)}
          />
          <button type="submit" className="jp-acp-button" disabled={!draft.trim()}>
            {trans.__('Save')}
          </button>
          <button type="button" className="jp-acp-button" onClick={() => setDraft(null)}>
            {trans.__('Cancel')}
          </button>
        </form>
      </li>
    );
  }
  return (
    <li className="jp-acp-queued" data-turn-id={turn.id} data-state="queued">
      <span className="jp-acp-queued-text" title={turn.text}>
        {turn.text}
      </span>
      {chat.isCollaborator && (
        <>
          <button className="jp-acp-link" onClick={() => setDraft(turn.text)}>
            {trans.__('Edit')}
          </button>
          <button className="jp-acp-link" onClick={() => void chat.sendNow(turn.id)}>
            {trans.__('Send now')}
          </button>
          <button className="jp-acp-link" onClick={() => void chat.withdraw(turn.id)}>
            {trans.__('Cancel')}
          </button>
        </>
      )}
    </li>
  );
}

/** What waits for the running turn to end. */
export const Queue = React.memo(function Queue({ queue }: { queue: readonly TurnInfo[] }) {
  const { trans } = useEnvironment();
  if (queue.length === 0) {
    return null;
  }
  return (
    <div className="jp-acp-queue">
      <div className="jp-acp-card-title">{trans.__('Queued')}</div>
      <ol>
        {queue.map(turn => (
          <Queued key={turn.id} turn={turn} />
        ))}
      </ol>
    </div>
  );
});
