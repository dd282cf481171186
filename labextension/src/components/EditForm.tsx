import * as React from 'react';
import { useEnvironment } from './environment';

/** Where a person changes a text of theirs. It stays, with what was typed, where the change is refused. */
export function EditForm(props: {
  text: string;
  label: string;
  canBeEmpty: boolean;
  /** Whether it was taken. */
  save: (text: string) => Promise<boolean>;
  onClose: () => void;
}): JSX.Element {
  const { trans } = useEnvironment();
  const { text, label, canBeEmpty, save, onClose } = props;
  const [draft, setDraft] = React.useState(text);
  return (
    <form
      className="jp-acp-edit"
      onSubmit={event => {
        event.preventDefault();
        void save(draft).then(done => done && onClose());
      }}
    >
      <textarea value={draft} aria-label={label} onChange={event => setDraft(event.target.value)} />
      <button type="submit" className="jp-acp-button" disabled={!canBeEmpty && !draft.trim()}>
        {trans.__('Save')}
      </button>
      <button type="button" className="jp-acp-button" onClick={onClose}>
        {trans.__('Cancel')}
      </button>
    </form>
  );
}
