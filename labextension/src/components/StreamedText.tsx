import * as React from 'react';
import { Streamed, whole } from '../streamed';
import { Markdown } from './Markdown';

/**
 * Text of an agent. While it streams, finished blocks are Markdown and the block that grows is plain text, so that a
 * new piece costs the same however long the text is. A finished text is rendered as a whole, once.
 */
export const StreamedText = React.memo(function StreamedText(props: {
  streamed: Streamed;
  done: boolean;
}) {
  const { streamed, done } = props;
  if (done) {
    return <Markdown text={whole(streamed)} />;
  }
  return (
    <>
      <Blocks blocks={streamed.blocks} />
      <div className="jp-acp-plain jp-acp-growing">{streamed.tail + streamed.line}</div>
    </>
  );
});

const Blocks = React.memo(function Blocks({ blocks }: { blocks: readonly string[] }) {
  return (
    <>
      {blocks.map((block, index) => (
        <Markdown key={index} text={block} />
      ))}
    </>
  );
});
