/** Types of headway.js. The server's documentation, "Streams", describes the frames. */

export type Status = "pending" | "running" | "completed" | "failed" | "cancelled";
export type Phase =
  | "queued" | "running" | "retrying" | "stalled" | "cancelling"
  | "succeeded" | "failed" | "cancelled";
export type Connection = "connecting" | "live" | "polling" | "lost";
export type Code =
  | "not_found" | "expired" | "not_allowed" | "not_authenticated" | "unavailable" | "unreachable"
  | "too_many" | "conflict" | "invalid" | "failed";

export interface Progress {
  current_step: number;
  total_steps: number;
  percentage: number;
  current_step_name: string | null;
  message: string | null;
  attributes: Record<string, string> | null;
  current: number | null;
  total: number | null;
  indeterminate: boolean;
  rate: number | null;
  eta_seconds: number | null;
  timestamp: string | null;
}

export interface Frame {
  type: "status" | "started" | "progress" | "completed" | "failed" | "cancelled";
  execution_id: string;
  status: Status;
  phase: Phase;
  timestamp: string | null;
  progress?: Progress | null;
}

export interface EndFrame extends Frame {
  type: "completed" | "failed" | "cancelled";
  outputs?: unknown;
  error?: { type: string; message: string; details: Record<string, unknown> | null } | null;
}

export class HeadwayError extends Error {
  readonly code: Code;
  /** HTTP status; 0 if there was no response. */
  readonly status: number;
  /** Seconds of the `Retry-After` header, or 0. */
  readonly retryAfter: number;
  /** True if a retry cannot succeed. */
  readonly final: boolean;
}

export interface Handlers {
  onStatus?(frame: Frame): void;
  onStart?(frame: Frame): void;
  onProgress?(progress: Progress, frame: Frame): void;
  onEnd?(frame: EndFrame): void;
  onError?(error: HeadwayError): void;
  onConnection?(state: Connection): void;
}

export interface Watching {
  stop(): void;
  /** The last frame; null after `stop`. Rejects with a `HeadwayError` if it cannot be watched. */
  readonly done: Promise<EndFrame | null>;
}

export interface Where {
  /** Another server's API, such as `https://other.example/api/v1`; default: the module's server. */
  base?: string;
  token?: string;
}

export function watch(
  id: string, on?: Handlers, options?: Where & { background?: boolean },
): Watching;
export function api(
  path: string | URL,
  options?: Where & Omit<RequestInit, "cache"> & { json?: unknown; timeout?: number },
): Promise<any>;
export function setToken(token: string | null, options?: Pick<Where, "base">): void;

export class HeadwayProgress extends HTMLElement {
  readonly status: Status | null;
  readonly phase: Phase | null;
  readonly progress: Progress | null;
  readonly error: HeadwayError | null;
}

export const PHASES: Record<Phase, string>;
export function bytes(count: number): string;
export function count(number: number, unit?: string): string;
export function duration(seconds: number): string;
export function percent(percentage: number): string;
export function amount(progress: Progress, unit?: string): string;
export function rate(progress: Progress, unit?: string): string;
export function timeLeft(progress: Progress): string;

declare global {
  interface HTMLElementTagNameMap { "headway-progress": HeadwayProgress }
  interface HTMLElementEventMap {
    "headway-status": CustomEvent<Frame>;
    "headway-progress": CustomEvent<Frame>;
    "headway-end": CustomEvent<EndFrame>;
    "headway-error": CustomEvent<HeadwayError>;
  }
}
