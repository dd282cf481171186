/** What goes wrong between the panel and the server, and what a person is told of it. */

/** The server refused; `reason` is its machine-readable word for why. */
export class RequestError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly reason: string
  ) {
    super(message);
  }
}

/** The server is not there, or cannot do it now: what it said is not true any more once it is back. */
export function isPassing(error: unknown): boolean {
  return !(error instanceof RequestError) || error.status === 503;
}

/** What was thrown, in words. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
