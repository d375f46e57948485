/** The addresses of the page, and going from one to another without loading it anew. */

export type Route =
  | { page: 'incidents' }
  | { page: 'incident'; id: string }
  | { page: 'feeds' }
  | { page: 'watches' }
  | { page: 'prefix'; prefix: string }
  | { page: 'unknown' };

export function routeOf(path: string): Route {
  const [first = '', ...rest] = path.split('/').slice(1).map(decode);
  const tail = rest.join('/');
  if (first === '' && !tail) return { page: 'incidents' };
  if (first === 'incidents' && rest.length === 1 && tail) return { page: 'incident', id: tail };
  if (first === 'feeds' && !tail) return { page: 'feeds' };
  if (first === 'watches' && !tail) return { page: 'watches' };
  if (first === 'prefixes' && tail) return { page: 'prefix', prefix: tail };
  return { page: 'unknown' };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export interface Navigation {
  /** The focus stays where it is: the same view with other content. */
  keepFocus: boolean;
}

export function navigate(address: string, detail: Navigation = { keepFocus: false }): void {
  if (address === location.pathname + location.search) return;
  history.pushState(null, '', address);
  dispatchEvent(new CustomEvent<Navigation>('navigate', { detail }));
}

/** Turns clicks on links within the page into navigation; whatever opens elsewhere is left to the browser. */
export function followLinks(): void {
  document.addEventListener('click', (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const anchor = event.target instanceof Element ? event.target.closest('a') : null;
    if (!anchor || anchor.target || anchor.origin !== location.origin || /^\/(api|embed|metrics|healthz|readyz)(\/|$)/.test(anchor.pathname) || anchor.hash) return;
    event.preventDefault();
    navigate(anchor.pathname + anchor.search);
  });
}
