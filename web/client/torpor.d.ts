/** Torpor in a page: the conversation is backed up as it goes, and comes back after a crash of the server or the tab. */

/**
 * A part of a message, as chat templates know it. Bytes of images are not sent by the page: the server has them. `index`
 * says which of the images of the restored backup it is, for a message that moved.
 */
export type Part = { type: "text"; text: string } | { type: "image"; index?: number } | { type: "video" };

/** A message, as chat templates know it. What else the page keeps in it stays in this browser. */
export interface Message {
  role: string;
  content: string | Part[];
  name?: string;
  reasoning_content?: string;
  tool_call_id?: string;
  tool_calls?: unknown[];
}

/** What the page knows of a session. */
export interface PageState<M extends Message = Message> {
  /** The messages, oldest first, as `restore` gave them and as they were said since. */
  conversation: M[];
  /** What the user has typed and not sent. */
  draft?: string | null;
  /** Whether the last message is still being written. */
  partial?: boolean;
  title?: string | null;
}

export interface ConnectOptions {
  /** Where the routes are: of the page's own inference server (`/api/backup`), or of the daemon on this machine. */
  base?: string | URL;
  /** For how long an answer is awaited. */
  timeoutMs?: number;
}

export interface PairOptions {
  /** The name that the user reads where the page is approved. */
  label: string;
  scopes?: ("read" | "save" | "restore")[];
  /** Shows the code that the user compares, and where it is approved. */
  onCode: (code: string, livesS: number) => void;
  signal?: AbortSignal;
}

export interface BackupOptions<M extends Message = Message> {
  sessionId: string;
  /** So many messages after a full save (with the KV cache), the next is made; a small one is made at each. */
  every?: number;
  /** Returns the present state; asked at each event, never kept. */
  state: () => PageState<M>;
}

/** An answer that is not well (RFC 9457), or none. */
export declare class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly hint: string;
  readonly retryable: boolean;
  /** Whether nobody can be reached for now: it heals by itself, and what was to be saved waits here. */
  readonly away: boolean;
}

export type Kind = "full" | "small" | "page" | "unchanged" | "queued";

export interface Saved {
  sessionId: string;
  kind: Kind;
  /** Null where the state waits in this browser (`queued`). */
  backupId: string | null;
  messages: number;
}

export interface Status {
  phase: "idle" | "saving" | "saved" | "queued" | "refused";
  online: boolean;
  /** States in this browser that the server does not have yet. */
  pending: number;
  /** When the newest state was saved by the server, in milliseconds since 1970. */
  savedAt: number | null;
  problem: Problem | null;
}

export interface Point {
  /** Id of the backup, or of the state in this browser. */
  id: string;
  /** Seconds since 1970. */
  createdAt: number;
  messages: number;
  /** Whether the last message was still being written. */
  partial: boolean;
  tokens: number | null;
  layers: string[];
  pinned: boolean;
  preview: string;
  /** Whether only this browser has it. */
  local: boolean;
}

export interface Plan {
  mode: string;
  /** What comes back and what it costs, in English, as one sentence and by its parts. */
  sentence: string;
  words: string[];
  /** The same as codes with their values, for a page in another language. */
  phrases: { code: string; text: string; values: Record<string, unknown> }[];
  tokensReused: number;
  tokensPrefill: number;
  seconds: number | null;
  bytesRead: number | null;
  /** Whether the attached process was asked; else it is told from what was saved, under the same model. */
  exact: boolean;
}

export interface Image {
  index: number;
  mediaType: string;
  sizeBytes: number;
}

export interface Restored<M extends Message = Message> {
  /** How much came back: `full`, `prefix`, `embeddings`, `media`, `text-only`; `local` is from this browser alone. */
  mode: string;
  sessionId: string;
  backupId: string | null;
  createdAt: number;
  conversation: M[];
  draft: string | null;
  /** Whether the last message was still being written. */
  partial: boolean;
  images: Image[];
  plan: { mode: string; notes: string[]; tokensReused: number; tokensPrefill: number; seconds: number | null } | null;
  local: boolean;
}

export interface BackupEvents<M extends Message = Message> {
  saving: { sessionId: string; full: boolean };
  saved: Saved;
  /** Nobody answers: states wait in this browser. */
  offline: { problem: Problem; pending: number };
  /** Somebody answers again; `drained` states were sent by then, what still waits follows. */
  online: { drained: number };
  restored: Restored<M>;
  /** A state was not taken (and is kept here), the page is not paired, or this browser's storage is full. */
  refused: { id: string | null; problem: Problem };
}

export type AnyEvent = { [K in keyof BackupEvents]: { type: K; detail: BackupEvents[K] } }[keyof BackupEvents];

export interface Backup<M extends Message = Message> {
  readonly status: Status;
  /** Listen to an event, or to all of them (`*`). Returns what ends it. */
  on<K extends keyof BackupEvents<M>>(type: K, listener: (detail: BackupEvents<M>[K]) => void): () => void;
  on(type: "*", listener: (detail: unknown, type: keyof BackupEvents) => void): () => void;
  /** A message was added or finished: save the small layers now. Never rejects. */
  message(): Promise<Saved>;
  /** Something changed that is not worth a backup yet (a draft, a token): keep it in this browser, at most once a second. */
  changed(): void;
  /** Save everything now, the KV cache too. Raises: Problem. */
  now(): Promise<Saved>;
  /** What can be gone back to, newest first; without a server what this browser has. */
  points(limit?: number): Promise<Point[]>;
  plan(point: Point | string): Promise<Plan>;
  /** Go back to a point, or to the newest state there is. Null where there is none. Raises: Problem. */
  restore(point?: Point | string): Promise<Restored<M> | null>;
  /** An image of a backup. */
  media(backupId: string, index: number): Promise<Blob>;
  /** Send what waits in this browser. Returns how many states the server took. */
  drain(): Promise<number>;
  /** Remove what this browser keeps of the session; the server's backups stay. */
  forget(): Promise<void>;
  /** Listen and save no longer; what waits stays. */
  stop(): void;
}

export interface Torpor {
  readonly base: string;
  /** Whether the page may call: its own server, or a daemon that gave it a token. */
  readonly paired: boolean;
  /** Ask the user to let this page use the daemon; the token is kept for this tab. Raises: Problem (`denied`, `expired`). */
  pair(options: PairOptions): Promise<void>;
  /** Forget the token of this tab. */
  unpair(): void;
  autoBackup<M extends Message = Message>(options: BackupOptions<M>): Backup<M>;
}

export declare function connect(options?: ConnectOptions): Torpor;
