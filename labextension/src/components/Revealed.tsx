import * as React from 'react';
import { reveal } from '../visible';
import { useEnvironment } from './environment';

/** Text that a person decides on: characters that cannot be seen are shown by name. */
export function Revealed({ text }: { text: string }): JSX.Element {
  const { trans } = useEnvironment();
  return (
    <>
      {reveal(text).map((piece, index) =>
        piece.hidden ? (
          <mark
            key={index}
            className="jp-acp-hidden-character"
            title={trans.__('A character that cannot be seen')}
          >
            {piece.text}
          </mark>
        ) : (
          <React.Fragment key={index}>{piece.text}</React.Fragment>
        )
      )}
    </>
  );
}
