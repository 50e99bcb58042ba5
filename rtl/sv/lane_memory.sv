// Memory of words of GROUPS x G lanes of W bits, banked by groups, so that a window of lanes that starts at any group is
// written or read in one cycle: the groups that wrap round the end of the word come from address + stride (the next chunk).
//
// wen        the banks in wmask are written: a window that starts at group wgroup of word waddr
// wdata      of the banks, as lane_window.sv puts them
// wstride    from waddr to the next chunk, into which the window wraps round;  rstride: the same from raddr
// ren, rdata   reads the word at raddr, with ROTATE rotated so that group rgroup is first; rdata one cycle later
// A write and a read per cycle, no reset. Cost: GROUPS memories of DEPTH x G W bits; with ROTATE a multiplexer of GROUPS inputs
// per bit (one LUT for up to four groups).
module lane_memory #(
  parameter [31:0] W = 8, parameter [31:0] G = 16, parameter [31:0] GROUPS = 1, parameter [31:0] ROTATE = 1,
  parameter [31:0] DEPTH = 256, parameter [31:0] AW = $clog2(DEPTH),
  parameter [31:0] GW = GROUPS > 1 ? $clog2(GROUPS) : 1
) (
  input  logic                  clk,
  input  logic                  wen,
  input  logic [AW-1:0]         waddr,     // word that is written
  input  logic [AW-1:0]         wstride,
  input  logic [GW-1:0]         wgroup,    // group of it where the window starts
  input  logic [GROUPS-1:0]     wmask,     // banks that are written
  input  logic [GROUPS*G*W-1:0] wdata,
  input  logic                  ren,
  input  logic [AW-1:0]         raddr,     // word that is read
  input  logic [AW-1:0]         rstride,
  input  logic [GW-1:0]         rgroup,    // with ROTATE: group of it that comes first
  output logic [GROUPS*G*W-1:0] rdata
);
  localparam [31:0] N = G*W;
  logic [GROUPS*N-1:0] word;                            // bank order
  logic [AW-1:0]       wnext, rnext;
  assign wnext = waddr + wstride;
  assign rnext = raddr + rstride;
  for (genvar b = 0; b < GROUPS; b = b + 1) begin : g_bank
    logic [N-1:0]  mem [0:DEPTH-1];
    logic [AW-1:0] wa, ra;
    logic [N-1:0]  q;
    if (b < GROUPS - 1) begin : g_wrapped                // the last bank never comes after the window's start
      assign wa = b < 32'(wgroup) ? wnext : waddr;
      assign ra = b < 32'(rgroup) && ROTATE != 0 ? rnext : raddr;
    end else begin : g_last
      assign {wa, ra} = {waddr, raddr};
    end
    assign word[b*N +: N] = q;
    initial begin
      for (int unsigned i = 0; i < DEPTH; i++) mem[i] = 0;
      q = 0;
    end
    always @(posedge clk) begin
      if (wen & wmask[b]) mem[wa] <= wdata[b*N +: N];
      if (ren) q <= mem[ra];
    end
  end
  if (GROUPS == 1 || ROTATE == 0) begin : g_straight
    logic unused;
    assign unused = &{1'b0, wnext, wgroup, rnext, rgroup};
    assign rdata = word;
  end else begin : g_rotate
    logic [GW-1:0] rgroup_q;
    initial rgroup_q = 0;
    always @(posedge clk) if (ren) rgroup_q <= rgroup;
    for (genvar b = 0; b < GROUPS; b = b + 1) begin : g_group
      logic [GW-1:0] from;
      assign from = GW'(b) + rgroup_q;
      for (genvar k = 0; k < GROUPS; k = k + 1) begin : g_pick       // bank k or a later one
        logic [N-1:0] q;
        if (k == GROUPS - 1) begin : g_last
          assign q = word[k*N +: N];
        end else begin : g_other
          assign q = from == GW'(k) ? word[k*N +: N] : g_pick[k+1].q;
        end
      end
      assign rdata[b*N +: N] = g_pick[0].q;
    end
  end
endmodule
