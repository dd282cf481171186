import * as React from 'react';
import type { Reactions } from '../wire/messages';
import { useEnvironment } from './environment';
import { Icon } from './Icon';

const OFFERED = ['+1', '-1'];

/** What people think of a message; one's own reaction is taken back by a second click. */
export function ReactionButtons(props: { id: string; reactions: Reactions }): JSX.Element {
  const { trans, chat } = useEnvironment();
  const { id, reactions } = props;
  const labels: { [name: string]: string } = { '+1': trans.__('Good'), '-1': trans.__('Bad') };
  const names = [...OFFERED, ...Object.keys(reactions).filter(name => !OFFERED.includes(name))];
  return (
    <span className="jp-acp-reactions">
      {names.map(name => {
        const people = reactions[name] ?? [];
        const isMine = people.includes(chat.username);
        const label = labels[name] ?? name;
        return (
          <button
            key={name}
            className="jp-acp-reaction"
            data-reaction={name}
            aria-pressed={isMine}
            disabled={!chat.isCollaborator}
            aria-label={label}
            title={people.length > 0 ? `${label}: ${people.join(', ')}` : label}
            onClick={() => void chat.react(id, name, !isMine)}
          >
            {labels[name] ? <Icon name={name} /> : name}
            {people.length > 0 && people.length}
          </button>
        );
      })}
    </span>
  );
}
