import * as React from 'react';
import type { TurnInfo } from '../wire/session';
import { EditForm } from './EditForm';
import { useEnvironment } from './environment';

function Queued({ turn }: { turn: TurnInfo }) {
  const { trans, chat } = useEnvironment();
  const [isEditing, setEditing] = React.useState(false);
  if (isEditing) {
    return (
      <li className="jp-acp-queued" data-turn-id={turn.id} data-state="editing">
        <EditForm
          text={turn.text}
          label={trans.__('The queued message')}
          canBeEmpty={false}
          save={text => chat.edit(turn.id, text)}
          onClose={() => setEditing(false)}
        />
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
          <button className="jp-acp-link" onClick={() => setEditing(true)}>
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
