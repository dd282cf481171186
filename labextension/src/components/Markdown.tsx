import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import * as React from 'react';
import { isSafeLink } from '../visible';
import { useEnvironment } from './environment';

/**
 * `rendermime` for text that an agent wrote: links lead to the web in a new tab or to files of the project, and
 * pictures of the web become links, because loading one would tell its server something.
 */
export function forAgents(rendermime: IRenderMimeRegistry): IRenderMimeRegistry {
  const sanitizer: IRenderMimeRegistry['sanitizer'] = {
    sanitize: (dirty, options) => harmless(rendermime.sanitizer.sanitize(dirty, options))
  };
  return rendermime.clone({ sanitizer });
}

function harmless(html: string): string {
  const page = new DOMParser().parseFromString(html, 'text/html');
  for (const image of Array.from(page.querySelectorAll<HTMLImageElement>('img'))) {
    const source = image.getAttribute('src') ?? '';
    if (!source.startsWith('data:image/')) {
      const link = page.createElement('a');
      link.setAttribute('href', source);
      link.textContent = image.alt || source;
      image.replaceWith(link);
    }
  }
  for (const media of Array.from(page.querySelectorAll('video, audio, source, iframe, object'))) {
    media.remove();
  }
  for (const link of Array.from(page.querySelectorAll('a'))) {
    const href = link.getAttribute('href') ?? '';
    if (isSafeLink(href)) {
      link.target = '_blank';
      link.rel = 'noopener noreferrer';
      continue;
    }
    link.removeAttribute('href');
    if (href && !/^[a-z][a-z0-9+.-]*:/i.test(href) && !href.startsWith('#')) {
      link.dataset.acpFile = href;
      link.setAttribute('role', 'link');
      link.tabIndex = 0;
    }
  }
  return page.body.innerHTML;
}

/** Markdown, rendered once per text. */
export const Markdown = React.memo(function Markdown({ text }: { text: string }) {
  const { rendermime, openFile } = useEnvironment();
  const hasFiles = openFile !== null;
  const host = React.useRef<HTMLDivElement>(null);
  React.useLayoutEffect(() => {
    let isCurrent = true;
    const renderer = rendermime.createRenderer('text/markdown');
    const model = rendermime.createModel({ data: { 'text/markdown': text } });
    void renderer.renderModel(model).then(() => {
      if (isCurrent && host.current) {
        // the renderer sets a weaker one
        for (const link of Array.from(renderer.node.querySelectorAll('a[href]'))) {
          link.setAttribute('rel', 'noopener noreferrer');
        }
        if (!hasFiles) {
          for (const link of Array.from(renderer.node.querySelectorAll('[data-acp-file]'))) {
            link.removeAttribute('data-acp-file');
            link.removeAttribute('role');
            link.removeAttribute('tabindex');
          }
        }
        host.current.replaceChildren(renderer.node);
        rendermime.latexTypesetter?.typeset(renderer.node);
      }
    });
    return () => {
      isCurrent = false;
      renderer.dispose();
    };
  }, [text, rendermime, hasFiles]);
  const onActivate = (event: React.SyntheticEvent) => {
    const link = (event.target as HTMLElement).closest<HTMLElement>('[data-acp-file]');
    if (link?.dataset.acpFile) {
      const [, path = '', line] = /^(.*?)(?:(?::|#L)(\d+).*)?$/.exec(link.dataset.acpFile) ?? [];
      openFile?.(decodeURI(path), line ? Number(line) : null);
      event.preventDefault();
    }
  };
  return (
    <div
      ref={host}
      className="jp-acp-markdown"
      onClick={onActivate}
      onKeyDown={event => event.key === 'Enter' && onActivate(event)}
    >
      <div className="jp-acp-plain">{text}</div>
    </div>
  );
});
