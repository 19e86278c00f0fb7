/** What the pages beside the sessions say. */
export default {};
